//! Processor time of a process, and which processor it may use.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Processor time that the threads of `pid` have used: the first number of their `schedstat`, in
/// nanoseconds. No thread may end between two readings that are compared.
pub(crate) fn used(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        let path = task?.path().join("schedstat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        nanos += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).context("schedstat has no number")?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Confines all threads of `pid` to processor `cpu`; false where there is no second one or no `taskset`.
pub(crate) fn pin(pid: u32, cpu: usize) -> bool {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", &cpu.to_string(), &pid.to_string()]);
    processors > cpu && command.output().is_ok_and(|done| done.status.success())
}
