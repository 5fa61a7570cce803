//! What the kernel counts for one process.

use std::time::Duration;

/// The kernel counts processor time in hundredths of a second (`sysconf(_SC_CLK_TCK)` on every Linux that Rust runs on).
const TICK: Duration = Duration::from_millis(10);

/// Resident memory now and at its highest, in MB of a million bytes.
pub fn memory(pid: u32) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let megabytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024.0 / 1e6
    };
    (megabytes("VmRSS:"), megabytes("VmHWM:"))
}

/// Processor time used since its start, in user and kernel.
pub fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The program's name is in parentheses and may hold anything; the numbers follow it.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u32>().unwrap();
    TICK * (ticks(11) + ticks(12))
}
