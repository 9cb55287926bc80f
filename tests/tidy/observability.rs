//! Dashboard, alerts and runbook speak of what is exported, and of each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::repository::{FILES, File, refuse};

/// What Prometheus knows of a target, and a histogram's bound.
const ALWAYS: &[&str] = &["job", "le", "namespace", "pod"];

fn file(path: &str) -> &'static File {
    FILES.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is not committed"))
}

fn is_of_a_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// Each metric of `deploy/reference/metrics.md`, which is generated from the registries: its labels, and of those with
/// a list the values.
fn exported() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    for (_, line) in file("deploy/reference/metrics.md").lines() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let [name, kind, _, labels, _] = cells[..] else { continue };
        let Some(name) = name.strip_prefix("| `").and_then(|name| name.strip_suffix('`')) else { continue };
        let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let labels = labels.split("; ").filter_map(|label| {
            let mut words = quoted(label).into_iter();
            Some((words.next()?, words.collect()))
        });
        let labels: BTreeMap<String, BTreeSet<String>> = labels.collect();
        let suffixes: &[&str] = if kind.starts_with("histogram") { &["_bucket", "_sum", "_count"] } else { &[""] };
        found.extend(suffixes.iter().map(|suffix| (format!("{name}{suffix}"), labels.clone())));
    }
    assert!(found.len() > 40, "the table of metrics was not understood");
    found
}

/// Every metric of a line with what stands in the braces behind it.
fn named(line: &str) -> Vec<(&str, &str)> {
    let starts = ["kthena_router_", "kthena_controller_"].into_iter().flat_map(|prefix| line.match_indices(prefix));
    starts
        .map(|(start, _)| {
            let (_, rest) = line.split_at(start);
            let (name, behind) = rest.split_at(rest.find(|letter| !is_of_a_name(letter)).unwrap_or(rest.len()));
            let braces = behind.strip_prefix('{').and_then(|inside| inside.split_once('}')).unwrap_or_default().0;
            (name, braces)
        })
        // A word of prose, or a prefix.
        .filter(|(name, _)| *name != "kthena_controller_manager")
        .collect()
}

#[test]
fn every_metric_and_label_of_a_dashboard_or_an_alert_is_exported() {
    let exported = exported();
    let mut count = 0;
    let mut wrong = Vec::new();
    let of_prometheus = |file: &&File| file.path.starts_with("deploy/observability/") && !file.path.ends_with(".md");
    for file in FILES.iter().filter(of_prometheus) {
        for (number, line) in file.lines() {
            let line = line.replace("\\\"", "\"");
            for (name, braces) in named(&line) {
                count += 1;
                let mut complain = |what: String| wrong.push(format!("{}:{number}: {name}{what}", file.path));
                let Some(labels) = exported.get(name) else {
                    complain(String::new());
                    continue;
                };
                for matcher in braces.split("\",").filter(|matcher| !matcher.is_empty()) {
                    let (label, rest) = matcher.trim().split_at(matcher.trim().find(['=', '!']).unwrap_or_default());
                    let values = rest.trim_start_matches(['=', '!', '~', '"']).trim_end_matches('"');
                    match labels.get(label) {
                        None if ALWAYS.contains(&label) => {}
                        None => complain(format!(" has no label {label}")),
                        Some(known) if known.is_empty() || values.contains('$') => {}
                        Some(known) => values
                            .split('|')
                            .filter(|value| !known.contains(*value))
                            .for_each(|value| complain(format!(" has no {label}=\"{value}\""))),
                    }
                }
            }
        }
    }
    assert!(count > 30, "dashboard and alerts were not found");
    refuse(wrong, "Nobody exports these (`cargo gen` writes deploy/reference/metrics.md):");
}

#[test]
fn every_metric_in_a_guide_is_exported() {
    let exported = exported();
    let guides = FILES.iter().filter(|file| file.path.ends_with(".md") && file.path != "deploy/reference/metrics.md");
    let missing = guides.flat_map(|file| {
        let exported = &exported;
        file.lines().flat_map(move |(number, line)| {
            let names = named(line).into_iter().map(|(name, _)| name).filter(|name| !name.ends_with('_'));
            names
                // A histogram has a name too, though nothing is exported under it.
                .filter(|name| !exported.contains_key(*name) && !exported.contains_key(&format!("{name}_sum")))
                .map(|name| format!("{}:{number}: {name}", file.path))
                .collect::<Vec<_>>()
        })
    });
    refuse(missing, "Nobody exports these:");
}

#[test]
fn every_alert_is_tried_and_has_its_place_in_the_runbook() {
    let value = |file: &'static File, key: &str| -> Vec<&'static str> {
        file.lines().filter_map(|(_, line)| line.trim_start().strip_prefix(key)).collect()
    };
    let alerts = file("deploy/observability/alerts.yaml");
    let names = value(alerts, "- alert: ");
    assert!(names.len() > 10, "the alerts were not found");
    let anchors: Vec<String> = names.iter().map(|name| format!("runbook.md#{}", name.to_lowercase())).collect();
    assert_eq!(value(alerts, "runbook: "), anchors, "each alert names its own heading of the runbook");
    let headings = value(file("deploy/observability/runbook.md"), "## ");
    assert_eq!(headings, names, "the runbook has a heading for each alert, in their order");
    let tried = file("deploy/observability/alerts_test.yaml");
    refuse(
        names.iter().filter(|name| !tried.text.contains(&format!("{{alertname=\"{name}\",alertstate=\"firing\""))),
        "An alert that has never fired may be unable to: describe its trouble in alerts_test.yaml:",
    );
}
