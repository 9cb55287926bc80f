//! What the rules look at: the committed files and cargo's view of the workspace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde::Deserialize;

/// Committed files that exist, by path from the top of the repository.
pub(crate) static FILES: LazyLock<Vec<File>> = LazyLock::new(read_files);

/// The workspace's own packages.
pub(crate) static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
    let json = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    serde_json::from_str::<Metadata>(&json).expect("cargo metadata prints JSON").packages
});

/// A committed file.
#[derive(Debug)]
pub(crate) struct File {
    /// From the top of the repository, with `/`.
    pub(crate) path: String,
    /// Its text; empty when it is not text.
    pub(crate) text: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) license: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` for a normal one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) src_path: PathBuf,
}

impl File {
    /// Its lines, numbered from one.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// The top of the repository.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| tests::checkout::path(""));
    &ROOT
}

/// Committed Rust files.
pub(crate) fn rust_files() -> impl Iterator<Item = &'static File> {
    FILES.iter().filter(|file| file.path.ends_with(".rs"))
}

/// What `cargo` prints, from the lock file as it is and without a network.
pub(crate) fn cargo(args: &[&str]) -> String {
    output(Command::new(env!("CARGO")).args(args).args(["--locked", "--offline"]))
}

/// The names of everything that `package` is built from, itself included.
pub(crate) fn tree(package: &str) -> BTreeSet<String> {
    names(&cargo(&["tree", "--package", package, "--edges", "normal,build", "--prefix", "none"]))
}

/// The first word of every line.
pub(crate) fn names(tree: &str) -> BTreeSet<String> {
    tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Fails with `reason` and the findings, if there are any.
pub(crate) fn refuse<T: std::fmt::Display>(findings: impl IntoIterator<Item = T>, reason: &str) {
    let lines: Vec<String> = findings.into_iter().map(|finding| format!("  {finding}")).collect();
    assert!(lines.is_empty(), "{reason}\n{}", lines.join("\n"));
}

fn read_files() -> Vec<File> {
    // A checkout that another user owns (a container's mount) is still worth tidying.
    let listed = output(Command::new("git").current_dir(root()).args(["-c", "safe.directory=*", "ls-files", "-z"]));
    listed
        .split('\0')
        .filter(|path| root().join(path).is_file())
        .map(|path| {
            let text = String::from_utf8(std::fs::read(root().join(path)).expect("a committed file can be read"));
            File { path: path.to_owned(), text: text.unwrap_or_default() }
        })
        .collect()
}

fn output(command: &mut Command) -> String {
    let done = command
        .current_dir(root())
        .output()
        .unwrap_or_else(|error| panic!("tidy needs `{}`: {error}", command.get_program().display()));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("tools print UTF-8")
}
