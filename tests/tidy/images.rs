//! Dockerfiles build what the workspace has, from what is committed.

use std::collections::BTreeSet;

use crate::repository::{FILES, File, PACKAGES, refuse, root};

fn dockerfiles() -> impl Iterator<Item = &'static File> {
    FILES.iter().filter(|file| file.path.ends_with(".Dockerfile"))
}

/// What follows `flag` in a line that builds.
fn words_after<'a>(file: &'a File, flag: &'a str) -> impl Iterator<Item = &'a str> {
    let builds = file.text.lines().filter(|line| line.starts_with("RUN cargo build "));
    builds.flat_map(move |line| line.split(flag).skip(1).filter_map(|rest| rest.split_whitespace().next()))
}

#[test]
fn every_image_runs_what_it_builds() {
    let targets: BTreeSet<&str> =
        PACKAGES.iter().flat_map(|package| &package.targets).map(|target| target.name.as_str()).collect();
    let mut count = 0;
    for file in dockerfiles() {
        count += 1;
        let built: BTreeSet<&str> = words_after(file, "--bin ").collect();
        refuse(built.difference(&targets), &format!("{} builds what no package has:", file.path));
        let copies = file.text.lines().filter(|line| line.starts_with("COPY --from=build "));
        let copied: BTreeSet<&str> = copies
            .flat_map(|line| line.split_whitespace().filter_map(|word| word.strip_prefix("/src/target/release/")))
            .collect();
        refuse(copied.difference(&built), &format!("{} copies what it does not build:", file.path));
        let name = file.path.trim_start_matches("deploy/").trim_end_matches(".Dockerfile");
        assert!(copied.contains(name), "{}: the image {name} is without its program", file.path);
        let entry = format!("ENTRYPOINT [\"/usr/local/bin/{name}\"]");
        assert!(file.text.lines().any(|line| line == entry), "{} should say {entry}", file.path);
    }
    assert_eq!(count, 3);
}

/// So that a machine builds it once for all of them.
#[test]
fn images_have_their_build_in_common() {
    let build = |file: &'static File| {
        let lines = file.text.lines().filter(|line| !line.starts_with('#'));
        lines.take_while(|line| !line.is_empty()).take(4).collect::<Vec<_>>()
    };
    let builds: BTreeSet<_> = dockerfiles().map(build).collect();
    assert_eq!(builds.len(), 1, "{builds:#?}");
    let workspace = FILES.iter().find(|file| file.path == "Cargo.toml").expect("Cargo.toml is committed");
    let rust = workspace.text.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("a version of Rust");
    let image = format!("FROM rust:{}-bookworm AS build", rust.trim_matches('"'));
    assert!(builds.iter().all(|build| build[0] == image), "Dockerfiles should begin with {image}");
}

#[test]
fn the_context_of_a_build_has_every_committed_file() {
    let ignored = std::fs::read_to_string(root().join(".dockerignore")).expect(".dockerignore is committed");
    let patterns: Vec<&str> = ignored.lines().collect();
    assert!(patterns.contains(&"target") && patterns.iter().all(|pattern| !pattern.contains(['*', '!', '/'])));
    refuse(
        FILES.iter().map(|file| &file.path).filter(|path| patterns.contains(&path.split('/').next().unwrap_or(path))),
        "A build in a container does not see these:",
    );
}

#[test]
fn kind_up_builds_and_runs_images_that_there_are() {
    let script = FILES.iter().find(|file| file.path == "deploy/kind-up").expect("deploy/kind-up is committed");
    let line = script.text.lines().find_map(|line| line.strip_prefix("images=(")).expect("a list of images");
    let built: BTreeSet<&str> = line.trim_end_matches(')').split(' ').collect();
    let there: BTreeSet<&str> =
        dockerfiles().map(|file| file.path.trim_start_matches("deploy/").trim_end_matches(".Dockerfile")).collect();
    assert_eq!(built, there);
}
