//! What takes minutes says so.

use std::io::Write as _;

/// Prints a line to standard error, also from within a test whose output is captured: whoever waits for a build of
/// minutes wants to know for what.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
