//! What this process uses of its machine, read from Linux's own account of it.
//!
//! Reading is all it does; on another system it knows nothing and says so.

use std::fs;
use std::time::Duration;

/// Linux counts processor time for programs in hundredths of a second, whatever the kernel's own clock is.
const TICK: Duration = Duration::from_millis(10);

/// The process's use of its machine.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Memory that is resident.
    pub resident_bytes: u64,
    /// Files and sockets that are open.
    pub open_files: u64,
}

/// The use up to now, when the system tells.
pub fn usage() -> Option<Usage> {
    let open_files = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(Usage {
        cpu: cpu(&fs::read_to_string("/proc/self/stat").ok()?)?,
        resident_bytes: resident(&fs::read_to_string("/proc/self/status").ok()?)?,
        open_files: u64::try_from(open_files).ok()?,
    })
}

/// Fields 14 and 15; the name in field 2 may hold spaces and ends with the last parenthesis.
fn cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user.saturating_add(system))
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_read_even_with_a_strange_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 100 1000 200";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(resident("Name:\tx\nVmRSS:\t   2048 kB\nThreads:\t1\n"), Some(2 * 1024 * 1024));
        assert_eq!((cpu("nonsense"), resident("nonsense")), (None, None));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage().unwrap();
        assert!(usage.resident_bytes > 0 && usage.open_files > 0, "{usage:?}");
    }
}
