//! What Rust files may say, and that all of them are compiled.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::repository::{FILES, File, PACKAGES, refuse, root, rust_files};

/// Files of the proving ground that may sleep, each with its reason.
const SLEEPERS: &[(&str, &str)] = &[
    ("tests/benches/ext_proc/main.rs", "a cell is measured for a stated time"),
    ("tests/benches/idle.rs", "an idle process is measured for a stated time"),
    ("tests/src/engine/api.rs", "a fault on demand takes the time that was asked for"),
    ("tests/src/engine/batch.rs", "a simulated batch takes the time that a real one would"),
    ("tests/src/poll.rs", "between two looks at the thing itself"),
];

/// The root of a workspace of its own, which Cargo's account of this one does not have.
const APART: &str = "tests/benches/kv_index/main.rs";

#[test]
fn every_rust_file_is_compiled() {
    let mut compiled = BTreeSet::new();
    let mut waiting: Vec<(PathBuf, bool)> = PACKAGES
        .iter()
        .flat_map(|package| &package.targets)
        .map(|target| (target.src_path.strip_prefix(root()).expect("targets are ours").to_owned(), true))
        .chain([(PathBuf::from(APART), true)])
        .collect();
    while let Some((path, is_root)) = waiting.pop() {
        let Some(file) = rust_files().find(|file| Path::new(&file.path) == path) else { continue };
        if compiled.insert(file.path.as_str()) {
            waiting.extend(modules(file, is_root));
        }
    }
    refuse(
        rust_files().map(|file| file.path.as_str()).filter(|path| !compiled.contains(path)),
        "No target reaches these files through `mod`; name them there or delete them:",
    );
}

/// The files that `file`'s `mod name;` and `include!("…")` lines may mean.
fn modules(file: &File, is_root: bool) -> Vec<(PathBuf, bool)> {
    let path = Path::new(&file.path);
    let folder = path.parent().expect("a file is in a folder");
    let stem = path.file_stem().expect("a file has a name");
    let home = if is_root || stem == "mod" { folder.to_owned() } else { folder.join(stem) };
    let mut found = Vec::new();
    let mut explicit = None;
    for line in file.text.lines().map(str::trim) {
        if let Some(given) = line.strip_prefix("#[path = \"").and_then(|rest| rest.split('"').next()) {
            explicit = Some(folder.join(given));
        } else if let Some(name) = declared(line) {
            match explicit.take() {
                Some(path) => found.push((path, false)),
                None => {
                    found.extend([(home.join(format!("{name}.rs")), false), (home.join(name).join("mod.rs"), false)])
                }
            }
        } else if let Some(given) = line.split("include!(\"").nth(1).and_then(|rest| rest.split('"').next()) {
            found.push((folder.join(given), false));
        }
    }
    found
}

/// `name` of a line `pub(crate) mod name;`.
fn declared(line: &str) -> Option<&str> {
    let name = line.strip_suffix(';')?;
    let (visibility, name) = name.split_once("mod ")?;
    let visibility = visibility.trim();
    (visibility.is_empty() || visibility.starts_with("pub")).then_some(name.trim())
}

/// Lines of production code: comments and tests, which follow their `cfg`, left out.
fn production(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let first_test = if is_test(file) { Some(0) } else { first_test(file) };
    file.lines().take(first_test.unwrap_or(usize::MAX)).filter(|(_, line)| !is_comment(line))
}

/// A module of tests in a file of its own, by its name.
fn is_test(file: &File) -> bool {
    file.path.ends_with("/tests.rs") || file.path.ends_with("_tests.rs") || file.path.contains("/tests/")
}

/// How many lines precede the `cfg` of a file's own tests.
fn first_test(file: &File) -> Option<usize> {
    let lines: Vec<&str> = file.text.lines().collect();
    lines.windows(2).position(|pair| {
        // `mod tests;` only names a file: what follows it is still production code.
        matches!(pair, [cfg, module] if *cfg == "#[cfg(test)]" && !module.ends_with(';'))
    })
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// `path:line` of each production line in `ext-proc/src` that `says`, save in the files `except`.
fn body_lines(except: &[&str], says: impl Fn(&str) -> bool) -> Vec<String> {
    rust_files()
        .filter(|file| ["ext-proc/src/", "controller/src/"].iter().any(|body| file.path.starts_with(body)))
        .filter(|file| !except.contains(&file.path.as_str()))
        .flat_map(|file| production(file).map(move |(number, line)| (file, number, line)))
        .filter(|(_, _, line)| says(line))
        .map(|(file, number, line)| format!("{}:{number}: {}", file.path, line.trim()))
        .collect()
}

#[test]
fn only_the_wiring_spawns() {
    refuse(
        body_lines(&["controller/src/run.rs", "ext-proc/src/run.rs"], |line| {
            ["tokio::spawn", "task::spawn(", "JoinSet", "TaskTracker", "thread::spawn"]
                .iter()
                .any(|word| line.contains(word))
        }),
        "run.rs is the map of the process: a task started elsewhere is one that nobody waits for. Return a future:",
    );
}

#[test]
fn the_environment_is_read_in_one_place() {
    refuse(
        body_lines(&["controller/src/args.rs", "ext-proc/src/args.rs", "ext-proc/src/telemetry.rs"], |line| {
            line.contains("std::env") || line.contains("env::var")
        }),
        "Settings are flags (args.rs) or OTEL_* (telemetry.rs), so that --help is the truth. Pass a value:",
    );
}

#[test]
fn no_test_is_switched_off() {
    let attribute = ["#[", "ignore"].concat();
    refuse(
        rust_files().filter(|file| file.text.contains(&attribute)).map(|file| &file.path),
        "A test that does not run proves nothing; mend it or delete it:",
    );
}

#[test]
fn no_test_sleeps_to_be_in_time() {
    let word = ["sleep", "("].concat();
    let sleeps = |file: &File| {
        let tests = if file.path.starts_with("tests/") || is_test(file) { Some(0) } else { first_test(file) };
        file.lines().skip(tests.unwrap_or(usize::MAX)).any(|(_, line)| !is_comment(line) && line.contains(&word))
    };
    let sleepers: Vec<&str> = rust_files().filter(|file| sleeps(file)).map(|file| file.path.as_str()).collect();
    refuse(
        sleepers.iter().filter(|path| !SLEEPERS.iter().any(|(allowed, _)| allowed == *path)),
        "Wait for the thing itself, with a deadline; a sleep is too short on a slow machine and too long on yours:",
    );
    refuse(
        SLEEPERS.iter().filter(|(path, _)| !sleepers.contains(path)).map(|(path, _)| path),
        "These no longer sleep; take them off the list:",
    );
}

#[test]
fn no_path_of_a_machine_is_committed() {
    let homes = ["root", "work", "home"].map(|name| format!("/{name}/"));
    let outside = |line: &str, home: &str| {
        line.match_indices(home).any(|(at, _)| {
            let before = line[..at].chars().next_back().unwrap_or(' ');
            !(before.is_alphanumeric() || "._-/}".contains(before))
        })
    };
    refuse(
        FILES.iter().flat_map(|file| {
            let homes = &homes;
            file.lines()
                .filter(move |(_, line)| homes.iter().any(|home| outside(line, home)))
                .map(move |(number, _)| format!("{}:{number}", file.path))
        }),
        "A user has only the clone; say it relative to the repository or take it from a flag:",
    );
}

#[test]
fn where_the_checkout_is_is_asked_when_a_program_runs() {
    let when_built = ["env!(\"", "CARGO_MANIFEST_DIR"].concat();
    refuse(
        rust_files()
            .filter(|file| file.path != "tests/src/checkout.rs" && file.text.contains(&when_built))
            .map(|file| &file.path),
        "Checkouts may share what is built, and this would be the one that built it. Ask tests::checkout:",
    );
}
