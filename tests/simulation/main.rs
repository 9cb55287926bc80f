//! Whole stories told to the brain in a tiny script language: see `script.rs`. Nothing is running.
//!
//! A story is a text file in `scripts/`: lines that start with `>` are commands, the lines under each
//! are what came of it. `UPDATE_SIMULATION=1 cargo test --test simulation` writes what comes of them
//! now; `expect` commands fail all the same.

mod script;
mod world;

use std::path::PathBuf;

use tests::checkout;

macro_rules! stories {
    ($($name:ident)*) => {
        const STORIES: &[&str] = &[$(stringify!($name)),*];
        $(#[test]
        fn $name() {
            tell(stringify!($name));
        })*
    };
}

stories! {
    a_conversation_sticks_to_its_endpoint
    a_hot_prefix_spills_over_when_saturated
    an_endpoint_that_leaves_is_forgotten
    an_unanswered_scrape_ages
    prefill_and_decode_pair_within_a_group
    routes_share_by_weight_and_adapters_keep_their_name
}

fn folder() -> PathBuf {
    checkout::path("tests/simulation/scripts")
}

fn tell(name: &str) {
    let path = folder().join(format!("{name}.txt"));
    let written = std::fs::read_to_string(&path).expect("the script is readable");
    let told = script::run(&written).unwrap_or_else(|error| panic!("{name}.txt: {error}"));
    if std::env::var_os("UPDATE_SIMULATION").is_some() {
        std::fs::write(&path, &told).expect("the script is writable");
    }
    let first = told.lines().zip(written.lines()).position(|(told, written)| told != written);
    let line = first.unwrap_or(told.lines().count().min(written.lines().count()));
    assert!(
        told == written || std::env::var_os("UPDATE_SIMULATION").is_some(),
        "{name}.txt, line {}: expected\n  {}\nbut came\n  {}\n(UPDATE_SIMULATION=1 accepts it)",
        line + 1,
        written.lines().nth(line).unwrap_or_default(),
        told.lines().nth(line).unwrap_or_default(),
    );
}

#[test]
fn every_script_is_told() {
    let entries = std::fs::read_dir(folder()).expect("the folder is readable");
    for entry in entries {
        let path = entry.expect("the entry is readable").path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("the name is text");
        assert!(STORIES.contains(&stem), "name {stem} in main.rs");
    }
}

#[test]
fn an_expectation_that_is_not_met_fails_the_story() {
    let script = "> endpoint a 10.0.0.1:8000\n> declare\n> send 1 model=m prompt=x:64\n> expect a 2..3\n";
    let error = script::run(script).unwrap_err();
    assert_eq!(error, "line 4: a was picked 1 times, expected 2..3");
}
