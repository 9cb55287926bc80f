//! Which crate may know which.

use crate::repository::{PACKAGES, Package, refuse, rust_files, tree};

/// Crates that touch the world: a clock's driver, a socket, a cluster, a collector.
const WORLD: &[&str] = &[
    "axum",
    "hyper",
    "hyper-util",
    "kube-client",
    "kube-runtime",
    "mio",
    "opentelemetry",
    "opentelemetry_sdk",
    "prost",
    "rustls",
    "socket2",
    "tokio",
    "tonic",
    "tower",
    "tracing",
];

/// Ours, as `cargo` calls them.
fn ours() -> impl Iterator<Item = &'static str> {
    PACKAGES.iter().map(|package| package.name.as_str())
}

fn package(name: &str) -> Option<&'static Package> {
    PACKAGES.iter().find(|package| package.name == name)
}

#[test]
fn the_brains_touch_nothing() {
    for brain in ["scheduling", "planning"].into_iter().filter(|name| package(name).is_some()) {
        let tree = tree(brain);
        refuse(
            WORLD.iter().filter(|name| tree.contains(**name)),
            &format!("`{brain}` computes and returns; I/O, time and telemetry belong to the body around it. It got:"),
        );
    }
}

#[test]
fn scheduling_knows_nothing_of_ours() {
    let tree = tree("scheduling");
    refuse(
        ours().filter(|name| *name != "scheduling" && tree.contains(*name)),
        "`scheduling` takes and gives its own values; translate in `ext-proc`. It got:",
    );
}

#[test]
fn the_bodies_meet_only_in_the_cluster() {
    for (body, strangers) in [
        ("kthena-ext-proc", &["kthena-controller-manager", "planning"][..]),
        ("kthena-controller-manager", &["kthena-ext-proc", "scheduling"][..]),
    ] {
        if package(body).is_some() {
            let tree = tree(body);
            refuse(
                strangers.iter().filter(|name| tree.contains(**name)),
                &format!("`{body}` shares only `controller-api` with the other body. It got:"),
            );
        }
    }
}

#[test]
fn each_body_speaks_its_own_contract() {
    for (body, other) in [("ext-proc/src/", "proto::envoy_gateway"), ("controller/src/", "proto::picker_v1")] {
        let users = rust_files().filter(|file| file.path.starts_with(body) && file.text.contains(other));
        refuse(users.map(|file| &file.path), &format!("`{other}` is not this body's to speak:"));
    }
}

#[test]
fn what_envoy_gateway_is_told_is_a_function_of_what_it_says() {
    // Envoy's messages bring tonic with them; nothing else of the world may be near.
    const ALLOWED: &[&str] =
        &["controller-api", "envoy-types", "k8s-openapi", "prost", "serde", "serde_json", "thiserror"];
    let extension = package("extension").expect("extension is a member");
    let direct = extension.dependencies.iter().filter(|on| on.kind.is_none()).map(|on| on.name.as_str());
    refuse(
        direct.filter(|name| !ALLOWED.contains(name)),
        "`extension` computes and returns; watches, ports and time belong to `controller`. It depends on:",
    );
}

#[test]
fn nobody_depends_on_the_proving_ground() {
    let users = PACKAGES.iter().filter(|package| package.dependencies.iter().any(|on| on.name == "tests"));
    refuse(users.map(|package| &package.name), "The harness is for `tests` alone; these depend on it:");
}

#[test]
fn the_kinds_are_data_only() {
    const ALLOWED: &[&str] = &["k8s-openapi", "kube", "schemars", "serde", "serde_json"];
    let api = package("controller-api").expect("controller-api is a member");
    let direct = api.dependencies.iter().filter(|on| on.kind.is_none()).map(|on| on.name.as_str());
    refuse(
        direct.filter(|name| !ALLOWED.contains(name)),
        "`controller-api` holds structs and what `derive` makes of them; meaning is added by its readers. It depends on:",
    );
    let tree = tree("controller-api");
    refuse(WORLD.iter().filter(|name| tree.contains(**name)), "`controller-api` must stay free of a client. It got:");
}

#[test]
fn the_wire_knows_nothing_of_ours() {
    let tree = tree("proto");
    refuse(
        ours().filter(|name| *name != "proto" && tree.contains(*name)),
        "`proto` is generated code; translate where it is used. It got:",
    );
}
