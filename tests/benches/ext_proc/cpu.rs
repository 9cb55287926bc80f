//! Which processor a process may use.

use std::process::Command;

/// Confines all threads of `pid` to processor `cpu`; false where there is no second one or no `taskset`.
pub(crate) fn pin(pid: u32, cpu: usize) -> bool {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", &cpu.to_string(), &pid.to_string()]);
    processors > cpu && command.output().is_ok_and(|done| done.status.success())
}
