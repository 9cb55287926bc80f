//! Starts the demo; Ctrl-C ends it and all that it started.

use std::ffi::OsString;
use std::process::ExitCode;

use ::tests::demo::{Options, run};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse_from(words(std::env::args_os()));
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return ExitCode::FAILURE };
    // What is dropped here ends with its value: the children, the engines, the temporary files.
    tokio::select! {
        result = run(&options) => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
        _ = terminate.recv() => ExitCode::from(143),
    }
}

/// The alias ends with `--`, and who writes `cargo demo -- --keep` gives another.
fn words(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.enumerate().filter(|(place, word)| (*place, word.as_os_str()) != (1, "--".as_ref())).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_with_or_without_a_mark_before_them() {
        for line in [&["demo", "--", "--keep"][..], &["demo", "--keep"]] {
            let options = Options::try_parse_from(words(line.iter().map(OsString::from)));
            assert!(options.is_ok_and(|options| options.keep), "{line:?}");
        }
    }
}
