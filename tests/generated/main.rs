//! What is generated and committed is what the generator writes today.

use std::collections::BTreeSet;

use tests::generated::{GeneratedFile, crds, extension, pages, picker};

fn refuse_stale(files: &[GeneratedFile]) {
    for file in files {
        let committed = std::fs::read_to_string(&file.path).unwrap_or_default();
        assert!(committed == file.text, "{} is stale: run `cargo gen` and commit the result", file.path.display());
    }
}

#[test]
fn proto_is_current() {
    refuse_stale(&picker().unwrap());
    refuse_stale(&extension().unwrap());
}

#[test]
fn the_reference_has_every_flag_field_and_metric_of_today() {
    refuse_stale(&pages().unwrap());
}

#[test]
fn the_definitions_of_our_kinds_are_current_and_no_other_is_left() {
    let files = crds().unwrap();
    refuse_stale(&files);
    let folder = files[0].path.parent().unwrap();
    let there: BTreeSet<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let expected: BTreeSet<_> = files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(there, expected, "a file for a kind that is no more is to be deleted");
}
