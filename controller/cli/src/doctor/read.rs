//! Facts, gathered: from a cluster or a folder, an Envoy, a picker. What cannot be read is a fact as well.

mod cluster;
mod folder;
mod web;

use std::path::Path;

use serde_json::Value;

use super::facts::envoy::Envoy;
use super::facts::picker::Picker;
use super::facts::{Facts, Source};
use crate::args::{ClusterArgs, DoctorArgs};

/// The largest file or answer that is read.
const LARGEST: usize = 256 << 20;

/// Reads all that the command line names; a cluster too, unless it names other things only.
pub(super) async fn all(cluster: &ClusterArgs, args: &DoctorArgs) -> Facts {
    let mut facts = Facts::default();
    let named = cluster.namespace.is_some() || cluster.context.is_some() || cluster.kubeconfig.is_some();
    let nothing_else = args.envoy.is_none() && args.picker.is_none();
    match &args.config_dir {
        Some(folder) => folder::read(folder, &mut facts),
        None if nothing_else || named || args.all_namespaces => {
            cluster::read(cluster, args.all_namespaces, &mut facts).await;
        }
        None => {
            let why = "neither a cluster (-n, -A, --context, --kubeconfig) nor a folder (--config-dir) was named";
            facts.unread(Source::OBJECTS, why);
        }
    }
    if let Some(place) = &args.envoy {
        envoy(place, &mut facts).await;
    }
    if let Some(address) = &args.picker {
        picker(address, &mut facts).await;
    }
    facts
}

async fn envoy(place: &str, facts: &mut Facts) {
    const FIX: &str = "name an Envoy bootstrap in YAML or JSON, a config_dump, or an admin port: \
                       --envoy http://127.0.0.1:19000 (kubectl port-forward)";
    let configuration = if place.starts_with("http://") {
        let url = format!("{}/config_dump", place.trim_end_matches('/').trim_end_matches("/config_dump"));
        web::json(&url).await
    } else {
        folder::text(Path::new(place)).and_then(|text| folder::document(&text))
    };
    match configuration.and_then(Envoy::read) {
        Ok(envoy) if envoy.routes.is_empty() && envoy.elsewhere.is_empty() => {
            let why = "the Envoy configuration has no route: give the config_dump of a running one";
            facts.unread.insert(Source::Envoy, why.to_owned());
        }
        Ok(envoy) => {
            facts.envoy = Some(envoy);
            facts.read.insert(Source::Envoy);
        }
        Err(problem) => {
            facts.unread.insert(Source::Envoy, format!("{place} cannot be read"));
            facts.unreadable(format!("Envoy configuration {place}"), problem, FIX);
        }
    }
}

async fn picker(address: &str, facts: &mut Facts) {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let page = async |path: &str| web::json(&format!("http://{address}{path}")).await;
    let read = async {
        let fleet: Value = page("/debug/fleet").await?;
        let status = page("/debug/config_dump").await?;
        let servers = page("/debug/config_dump/modelservers").await?;
        Picker::read(address, fleet, status, &servers)
    };
    match read.await {
        Ok(picker) => {
            facts.picker = Some(picker);
            facts.read.insert(Source::Picker);
        }
        Err(problem) => {
            facts.unread.insert(Source::Picker, format!("the picker at {address} does not answer"));
            let fix = "a picker's debug port listens on its own loopback only: run kubectl port-forward to its pod's port \
                       15000, and give that address";
            facts.unreadable(format!("picker at {address}"), problem, fix);
        }
    }
}
