//! A child process that never outlives us.
//!
//! The child runs under a shell of a few lines that holds the other end of a pipe of ours. Dropping
//! the value, a panic and `SIGKILL` to us all close that pipe, and the shell then kills the child.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;

use crate::poll;

/// Lines of output that are kept.
const KEPT_LINES: usize = 20_000;

/// `exec` makes the printed number the child's own; the reader of descriptor 3 is the one that
/// notices our end. `kill -CONT` lets a stopped child receive its end too. The shell itself says nothing: once we
/// are gone nobody reads, and a word (`Killed`) would end it before it has swept. Children of the child may write while they
/// end, a browser's do, hence the second sweep.
const SUPERVISOR: &str = r#"
exec 3<&0 </dev/null
sh -c 'echo $$; exec "$@" 3<&-' sh "$@" &
child=$!
{ read -r _ <&3; kill -KILL "$child"; } >/dev/null 2>&1 &
watcher=$!
exec 3<&- >/dev/null 2>&1
wait "$child"; status=$?
kill "$watcher" 2>/dev/null
[ -z "$KTHENA_TESTS_SWEEP" ] || rm -rf -- "$KTHENA_TESTS_SWEEP" 2>/dev/null ||
    { sleep 1; rm -rf -- "$KTHENA_TESTS_SWEEP"; } 2>/dev/null
exit "$status"
"#;

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
}

impl Program {
    /// The program at `path`, called `name` in messages.
    pub fn new(name: &str, path: impl Into<PathBuf>) -> Self {
        Self { name: name.to_owned(), path: path.into(), args: Vec::new(), env: Vec::new(), dir: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, args: impl IntoIterator<Item = T>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable; the rest is ours.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Runs it in `dir`.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Removes the folder `dir` when the program has ended, also when it ends because we were killed.
    #[must_use]
    pub fn sweep(self, dir: impl Into<PathBuf>) -> Self {
        self.env("KTHENA_TESTS_SWEEP", dir.into())
    }

    /// Starts it.
    ///
    /// # Errors
    /// When there is no `sh`, or the program cannot be started.
    pub fn start(self) -> Result<Process> {
        let mut command = Command::new("sh");
        command.args(["-c", SUPERVISOR, "sh"]).arg(&self.path).args(&self.args).envs(self.env);
        if let Some(dir) = self.dir {
            command.current_dir(dir);
        }
        // A group of its own: Ctrl-C is for us, and we end the child in our order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start `sh` to run {}", self.name))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("no pipes to {}", self.name);
        };
        let mut stdout = BufReader::new(stdout);
        let mut pid = String::new();
        stdout.read_line(&mut pid)?;
        let pid = pid.trim().parse().with_context(|| format!("{} did not start", self.name))?;
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        keep(stdout, Arc::clone(&lines));
        keep(BufReader::new(stderr), Arc::clone(&lines));
        Ok(Process { name: self.name, pid, supervisor: Mutex::new(child), lines })
    }
}

fn keep(reader: impl Read + Send + 'static, lines: Arc<Mutex<VecDeque<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines() {
            let Ok(line) = line else { return };
            let mut lines = lines.lock();
            if lines.len() == KEPT_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    });
}

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    supervisor: Mutex<Child>,
    lines: Arc<Mutex<VecDeque<String>>>,
}

/// What can be sent to a process.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// Ends it politely.
    Term,
    /// Ends it at once.
    Kill,
    /// Freezes it.
    Stop,
    /// Thaws it.
    Continue,
}

impl Process {
    /// The program's own process id, not the supervisor's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Standard output and standard error so far, by lines, in the order they came.
    #[must_use]
    pub fn output(&self) -> Vec<String> {
        self.lines.lock().iter().cloned().collect()
    }

    /// Waits for the first line, past or to come, that `find` makes something of.
    ///
    /// # Errors
    /// When the deadline passes or the process ends first; the message holds the end of its output.
    pub async fn find_line<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let found = poll::until(what, deadline, async || {
            let ended = self.try_exit_code();
            let found = self.lines.lock().iter().find_map(|line| find(line));
            found.map(Ok).or_else(|| ended.map(Err))
        });
        match found.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(code)) => bail!("{} ended with status {code} before {what}:\n{}", self.name, self.tail()),
            Err(error) => Err(error.context(format!("{} said:\n{}", self.name, self.tail()))),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let name = match signal {
            Signal::Term => "TERM",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
        };
        let script = format!("kill -{name} {}", self.pid);
        if self.try_exit_code().is_some() || !Command::new("sh").args(["-c", &script]).status()?.success() {
            bail!("{} is gone", self.name);
        }
        Ok(())
    }

    /// The exit code, once it has ended; 128 + n when signal n ended it, as shells count.
    #[must_use]
    pub fn try_exit_code(&self) -> Option<i32> {
        let status = self.supervisor.lock().try_wait().ok()??;
        Some(status.code().unwrap_or(-1))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it lives on past the deadline.
    pub async fn exit_code(&self, deadline: Duration) -> Result<i32> {
        poll::until(&format!("the end of {}", self.name), deadline, async || self.try_exit_code()).await
    }

    fn tail(&self) -> String {
        let lines = self.lines.lock();
        lines.iter().skip(lines.len().saturating_sub(40)).fold(String::new(), |all, line| all + line + "\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of what {} said:\n{}", self.name, self.tail());
        }
        let mut supervisor = self.supervisor.lock();
        drop(supervisor.stdin.take());
        // Ends soon: the closed pipe is a SIGKILL to the child.
        let _ = supervisor.wait();
    }
}
