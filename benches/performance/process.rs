//! What the kernel counts for one process.

use std::time::Duration;

/// The kernel counts processor time in hundredths of a second (`sysconf(_SC_CLK_TCK)` on every Linux that Rust runs on).
const TICK: Duration = Duration::from_millis(10);

/// Resident memory now and at its highest, in MB of a million bytes.
pub fn memory(pid: u32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    (megabytes(&status, "VmRSS:").unwrap(), megabytes(&status, "VmHWM:").unwrap())
}

/// Resident memory at its highest, in MB of a million bytes; `None` once the process has ended.
pub fn highest(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    megabytes(&status, "VmHWM:")
}

fn megabytes(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

/// Processor time used since its start, in user and kernel.
pub fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The program's name is in parentheses and may hold anything; the numbers follow it.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u32>().unwrap();
    TICK * (ticks(11) + ticks(12))
}
