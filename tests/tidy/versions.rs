//! A guide's command installs the version that the tests run with.

use tests::cluster::crds::{Foreign, GatewayKinds};

use crate::repository::{FILES, refuse};

#[test]
fn what_a_guide_installs_is_what_the_tests_run_with() {
    let pinned = |kinds: GatewayKinds| kinds.version().expect("a version in go.mod");
    let extension = Foreign::InferencePool.version().expect("a version in the list");
    let places = [
        ("/gateway-api/releases/download/", pinned(GatewayKinds::GatewayApi)),
        ("/kubernetes-sigs/gateway-api-inference-extension/", extension),
        ("/envoyproxy/gateway-helm --version ", pinned(GatewayKinds::EnvoyGateway)),
        ("/envoyproxy/ai-gateway/", pinned(GatewayKinds::AiGateway)),
        ("/envoyproxy/ai-gateway-helm --version ", pinned(GatewayKinds::AiGateway)),
        ("/envoyproxy/ai-gateway-crds-helm --version ", pinned(GatewayKinds::AiGateway)),
    ];
    let mut found = [false; 6];
    let mut others = Vec::new();
    for guide in FILES.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in guide.lines() {
            for (index, (before, version)) in places.iter().enumerate() {
                let Some((_, after)) = line.split_once(before) else { continue };
                found[index] = true;
                let said = after.split(['/', ' ']).next().unwrap_or_default();
                if said != version {
                    others.push(format!("{}:{number}: {before}{said} instead of {version}", guide.path));
                }
            }
        }
    }
    assert!(found.iter().all(|found| *found), "guides no longer say how to install each: {found:?}");
    refuse(others, "These versions are not those of tests/src/cluster:");
}
