//! Every manifest of `gateway-api-examples/` is one that the real API server takes.

use anyhow::{Context as _, Result};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::discovery::Discovery;
use serde_json::Value;
use tests::checkout;
use tests::cluster::control_plane::ControlPlaneOptions;
use tests::cluster::crds::GatewayKinds;

use crate::manifests::api_of;

/// The objects of a file; those of a `List` one by one.
fn objects(text: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in text.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(document)?;
        match object["items"].as_array().filter(|_| object["kind"] == "List") {
            Some(items) => objects.extend(items.iter().cloned()),
            None => objects.push(object),
        }
    }
    Ok(objects)
}

#[tokio::test]
async fn every_manifest_of_the_examples_is_accepted() -> Result<()> {
    let kinds = [GatewayKinds::GatewayApi, GatewayKinds::EnvoyGateway, GatewayKinds::Istio];
    let plane = ControlPlaneOptions::default().with_kinds(&kinds).start().await?;
    let client = plane.client().await?;
    let discovery = Discovery::new(client.clone()).run().await?;
    let examples = checkout::path("gateway-api-examples");
    let (mut folders, mut accepted) = (0, 0);
    for folder in std::fs::read_dir(&examples)? {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        folders += 1;
        for file in std::fs::read_dir(&folder)? {
            let file = file?.path();
            if file.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            for object in objects(&std::fs::read_to_string(&file)?)? {
                if object["kind"] == "Pod" && object["spec"].is_null() {
                    // An engine that is written down as a Pod where there is no cluster.
                    continue;
                }
                let object: DynamicObject = serde_json::from_value(object)?;
                let what = || format!("{}: {:?} {:?}", file.display(), object.types, object.metadata.name);
                let api = api_of(&client, &discovery, &object).with_context(what)?;
                let params = PatchParams { dry_run: true, ..PatchParams::apply("a-test").validation_strict() };
                let name = object.metadata.name.clone().with_context(what)?;
                api.patch(&name, &params, &Patch::Apply(&object)).await.with_context(what)?;
                accepted += 1;
            }
        }
    }
    assert!(folders >= 12 && accepted >= 60, "{accepted} manifests in {folders} folders");
    Ok(())
}
