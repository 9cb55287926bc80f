//! Where files are and what they are called.

use std::collections::BTreeSet;

use crate::repository::{FILES, refuse, rust_files};

/// What `ls` shows at the top; tool settings are dotfiles.
const TOP: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "controller",
    "deploy",
    "ext-proc",
    "gateway-api-examples",
    "proto",
    "tests",
];

#[test]
fn the_top_is_the_customers() {
    let top: BTreeSet<&str> = FILES.iter().filter_map(|file| file.path.split('/').next()).collect();
    refuse(
        top.iter().filter(|name| !name.starts_with('.') && !TOP.contains(name)),
        "The top level shows what a customer looks for; put it into one of these folders or make it a dotfile:",
    );
    refuse(TOP.iter().filter(|name| !top.contains(**name)), "These belong to the top level and are gone:");
}

#[test]
fn no_file_is_over_500_lines() {
    refuse(
        rust_files()
            // Nobody reads or edits what a test regenerates.
            .filter(|file| !file.path.contains("/generated/"))
            .map(|file| (file, file.text.lines().count()))
            .filter(|(_, lines)| *lines > 500)
            .map(|(file, lines)| format!("{} ({lines})", file.path)),
        "More than one idea lives in a file of over 500 lines; split it by idea:",
    );
}

#[test]
fn no_name_is_a_drawer() {
    const DRAWERS: &[&str] =
        &["common", "helper", "helpers", "misc", "prelude", "shared", "stuff", "types", "util", "utils"];
    refuse(
        FILES
            .iter()
            .map(|file| file.path.as_str())
            .filter(|path| path.split('/').any(|part| DRAWERS.contains(&part.split('.').next().unwrap_or(part)))),
        "A name says what is inside; these could hold anything:",
    );
}
