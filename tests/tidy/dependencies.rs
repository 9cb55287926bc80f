//! What we build on: one version of what is big, one TLS provider, one place for a version.

use std::collections::BTreeSet;

use crate::repository::{FILES, PACKAGES, cargo, names, refuse};

/// Everything that is built on this platform, tests included: `name version` per line.
fn whole_tree() -> String {
    cargo(&["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none"])
}

#[test]
fn the_big_ones_come_once() {
    const ONCE: &[&str] =
        &["axum", "envoy-types", "http", "hyper", "k8s-openapi", "opentelemetry", "prost", "rustls", "tonic", "tower"];
    let tree = whole_tree();
    for name in ONCE {
        let versions: BTreeSet<&str> =
            tree.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.split(' ').next()).collect();
        assert_eq!(versions.len(), 1, "`{name}` must be there once, so that its types fit everywhere: {versions:?}");
    }
}

#[test]
fn there_is_one_tls_provider() {
    let tree = names(&whole_tree());
    refuse(
        ["ring", "openssl", "openssl-sys", "native-tls", "reqwest"].iter().filter(|name| tree.contains(**name)),
        "rustls with aws-lc-rs is the one TLS; turn the default features of the new dependency off. It brought:",
    );
}

#[test]
fn every_source_is_the_public_registry() {
    let lock = FILES.iter().find(|file| file.path == "Cargo.lock").expect("Cargo.lock is committed");
    refuse(
        lock.lines()
            .filter(|(_, line)| line.starts_with("source = "))
            .filter(|(_, line)| *line != "source = \"registry+https://github.com/rust-lang/crates.io-index\"")
            .map(|(number, line)| format!("Cargo.lock:{number}: {line}")),
        "Whoever clones must be able to fetch it; this comes from elsewhere:",
    );
}

#[test]
fn no_registry_is_prescribed() {
    // Which mirror a machine uses is its own affair (cargo's and pip's settings outside the checkout).
    let words = ["index", "trusted", "extra-index"].map(|word| format!("--{word}-"));
    let cargo = ["[source", "[registries", "replace-with ="];
    let hits = FILES.iter().flat_map(|file| {
        let settings = file.path.ends_with("config.toml");
        let words = words.clone();
        file.lines()
            .filter(move |(_, line)| {
                (settings && cargo.iter().any(|word| line.contains(word)))
                    || words
                        .iter()
                        .any(|word| line.contains(&format!("{word}url")) || line.contains(&format!("{word}host")))
            })
            .map(move |(number, _)| format!("{}:{number}", file.path))
    });
    refuse(hits, "Leave the choice of a registry or mirror to the machine:");
}

#[test]
fn every_crate_states_the_licence() {
    refuse(
        PACKAGES.iter().filter(|package| package.license.as_deref() != Some("Apache-2.0")).map(|package| &package.name),
        "`license.workspace = true` is missing in:",
    );
}

#[test]
fn the_version_of_envoy_stands_in_one_place() {
    const HOME: &str = "tests/src/envoy.rs";
    let home = FILES.iter().find(|file| file.path == HOME).unwrap_or_else(|| panic!("{HOME} fetches Envoy"));
    let version = home
        .text
        .lines()
        .find(|line| line.contains("const") && line.to_lowercase().contains("version"))
        .and_then(|line| line.split('"').nth(1))
        .unwrap_or_else(|| panic!("{HOME} holds the one constant with Envoy's version"));
    assert!(version.split('.').count() == 3, "{HOME}: `{version}` is not a whole version");
    // The versions of others may be the same by chance.
    let locks = ["Cargo.lock", "/go.mod", "/go.sum"];
    let elsewhere = FILES.iter().filter(|file| !locks.iter().any(|lock| file.path.ends_with(lock))).flat_map(|file| {
        file.lines()
            .filter(|(_, line)| line.contains(version))
            .map(move |(number, _)| format!("{}:{number}", file.path))
    });
    let places: Vec<String> = elsewhere.collect();
    assert_eq!(
        places.len(),
        1,
        "Envoy's version {version} stands in {HOME} once, so that one line moves it: {places:?}"
    );
}
