//! What the figures were taken on, in one line.

/// Processors, memory, kernel, and how busy the machine is with other things.
pub fn described() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: u64 = value(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    let load = read("/proc/loadavg");
    format!(
        "{cores} cores ({}), {} GiB, Linux {}, load {}",
        value(&read("/proc/cpuinfo"), "model name"),
        memory.div_ceil(1 << 20),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or_default(),
    )
}
