//! Guides name what exists.

use crate::repository::{FILES, File, refuse, root};

/// Where a path in a guide may begin.
const STARTS: &[&str] =
    &[".cargo/", ".ci/", "controller/", "deploy/", "ext-proc/", "gateway-api-examples/", "proto/", "tests/"];

fn guides() -> impl Iterator<Item = &'static File> {
    FILES.iter().filter(|file| file.path.ends_with(".md"))
}

#[test]
fn every_path_in_a_guide_exists() {
    let missing = guides().flat_map(|guide| {
        guide.lines().flat_map(move |(number, line)| {
            line.split(|letter: char| !(letter.is_alphanumeric() || "/._-".contains(letter)))
                .map(|word| word.trim_end_matches(['.', '-']))
                .filter(|word| STARTS.iter().any(|start| word.starts_with(start)))
                .filter(|word| !root().join(word).exists())
                .map(move |word| format!("{}:{number}: {word}", guide.path))
        })
    });
    refuse(missing, "A guide that names what is not there is worse than none:");
}

#[test]
fn every_file_named_in_a_guide_exists() {
    let missing = guides().flat_map(|guide| {
        guide.lines().flat_map(move |(number, line)| {
            line.split('`')
                .skip(1)
                .step_by(2)
                .filter(|word| word.ends_with(".rs") || word.ends_with(".proto"))
                .filter(|word| !FILES.iter().any(|file| file.path == *word || file.path.ends_with(&format!("/{word}"))))
                .map(move |word| format!("{}:{number}: {word}", guide.path))
        })
    });
    refuse(missing, "These files are named but not committed:");
}

#[test]
fn every_link_in_a_guide_leads_somewhere() {
    let missing = guides().flat_map(|guide| {
        let folder = root().join(&guide.path).parent().expect("a guide is in a folder").to_owned();
        guide.lines().flat_map(move |(number, line)| {
            let folder = folder.clone();
            line.split("](")
                .skip(1)
                .filter_map(|rest| rest.split([')', '#']).next())
                .filter(|link| !link.is_empty() && !link.contains("://"))
                .filter(move |link| !folder.join(link).exists())
                .map(move |link| format!("{}:{number}: {link}", guide.path))
        })
    });
    refuse(missing, "These links lead nowhere:");
}

#[test]
fn an_example_is_a_manifest_or_a_guide_with_its_pictures() {
    let is_shown = |path: &str| {
        path.rsplit_once('/').is_some_and(|(folder, name)| {
            let near = |guide: &&File| guide.path.rsplit_once('/').is_some_and(|(its, _)| its == folder);
            name.ends_with(".svg") && guides().filter(near).any(|guide| guide.text.contains(&format!("({name})")))
        })
    };
    refuse(
        FILES
            .iter()
            .map(|file| file.path.as_str())
            .filter(|path| path.starts_with("gateway-api-examples/"))
            .filter(|path| !path.ends_with(".yaml") && !path.ends_with(".md") && !is_shown(path)),
        "An example folder holds manifests that load, guides and the pictures in them; move the rest:",
    );
}

#[test]
fn every_attribute_of_a_span_in_a_guide_is_set_somewhere() {
    let set: Vec<&File> = FILES.iter().filter(|file| file.path.starts_with("ext-proc/src/")).collect();
    let missing = guides().flat_map(|guide| {
        let set = &set;
        guide.lines().flat_map(move |(number, line)| {
            line.split('`')
                .skip(1)
                .step_by(2)
                .filter(|word| {
                    word.starts_with("kthena.")
                        && word.chars().all(|letter| letter.is_ascii_lowercase() || "._".contains(letter))
                })
                .filter(|word| !set.iter().any(|file| file.text.contains(&format!("\"{word}\""))))
                .map(move |word| format!("{}:{number}: {word}", guide.path))
        })
    });
    refuse(missing, "No span has these attributes:");
}

#[test]
fn every_test_that_a_guide_names_as_its_witness_exists() {
    let mut count = 0;
    let mut missing = Vec::new();
    for guide in guides() {
        let rows = guide
            .lines()
            .skip_while(|(_, line)| !line.ends_with("| shown by |"))
            .filter(|(_, line)| line.ends_with(" |"));
        for (number, line) in rows {
            let witnesses = line.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default();
            for name in witnesses.split('`').skip(1).step_by(2).filter(|name| !name.contains('/')) {
                count += 1;
                let test = format!("fn {name}");
                if !FILES.iter().any(|file| file.path.ends_with(".rs") && file.text.contains(&test)) {
                    missing.push(format!("{}:{number}: {name}", guide.path));
                }
            }
        }
    }
    assert!(count > 20, "no guide names its witnesses");
    refuse(missing, "No test has these names; what a guide says is then only said:");
}
