//! `kthena`: what the operator and the picker do, asked and steered by a person.
//!
//! Thin: it reads objects, asks `planning` or a picker, prints, and changes at most one object per command; it creates
//! those of a template, all or none.
//! As `kubectl-kthena` (a link to this binary) in the path it is `kubectl kthena`.

mod args;
mod cluster;
mod create;
mod describe;
mod doctor;
mod explain;
mod get;
mod print;
mod rollout;
mod templates;

use std::io::Write as _;
use std::process::ExitCode;

use crate::args::{Args, Command};

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// As asked.
    Done,
    /// What was waited for did not come in time.
    NotYet,
    /// What was waited for will not come until a person does something.
    Held,
    /// As asked, and what was found is wrong and told.
    Wrong,
}

fn main() -> ExitCode {
    let args = Args::of_process();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let ran = match args.command {
        Command::Rollout { action } => runtime.block_on(rollout::run(&args.cluster, action)),
        Command::Explain(asked) => runtime.block_on(explain::run(asked)),
        Command::Doctor(asked) => runtime.block_on(doctor::run(&args.cluster, &asked)),
        Command::Get { what } => runtime.block_on(get::run(&args.cluster, what)),
        Command::Describe { what } => describe::run(what),
        Command::Create { what } => runtime.block_on(create::run(&args.cluster, what)),
    };
    match ran {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::NotYet) => ExitCode::from(3),
        Ok(Outcome::Held) => ExitCode::from(4),
        Ok(Outcome::Wrong) => ExitCode::FAILURE,
        // Whoever reads our output has read enough: `kthena rollout history | head -1`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // Nobody reads this either if it cannot be written.
    drop(writeln!(std::io::stderr(), "error: {}", story(error)));
    ExitCode::FAILURE
}

/// The error and its causes, without those that were told already: many errors tell their causes themselves.
fn story(error: &anyhow::Error) -> String {
    let mut story = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if story.is_empty() {
            story = cause;
        } else if !story.contains(&cause) {
            story = format!("{story}: {cause}");
        }
    }
    story
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("refused").context("connect: refused").context("cannot reach it");
        assert_eq!(story(&error), "cannot reach it: connect: refused");
    }
}
