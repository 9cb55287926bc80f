//! What a process uses of the machine, as Linux tells in `/proc`.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Processor time that the threads of `pid` have used: the first number of their `schedstat`, in
/// nanoseconds. No thread may end between two readings that are compared.
///
/// # Errors
/// When the process is gone.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        let path = task?.path().join("schedstat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        nanos += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).context("schedstat has no number")?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory of `pid` in KiB (`VmRSS`).
///
/// # Errors
/// When the process is gone.
pub fn resident_memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().split(' ').next().and_then(|number| number.parse().ok()).context("VmRSS is no number")
}
