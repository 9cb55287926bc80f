//! What there is, as far as it was read: plain data, whoever read it.

pub(super) mod envoy;
pub(super) mod objects;
pub(super) mod picker;
pub(super) mod policies;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use self::envoy::Envoy;
use self::objects::Objects;
use self::picker::Picker;

/// Something that facts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Envoy,
    Picker,
    Pods,
    /// Pods, or what will become pods, that are not pickers.
    Engines,
    Services,
    EndpointSlices,
    InferencePools,
    ModelServers,
    ModelRoutes,
    HttpRoutes,
    Gateways,
    Workloads,
    /// Envoy Gateway's.
    Policies,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Envoy => "Envoy configuration (--envoy)",
            Self::Picker => "account of a picker (--picker)",
            Self::Pods => "Pod or workload",
            Self::Engines => "Pod or workload of an engine",
            Self::Services => "Service",
            Self::EndpointSlices => "EndpointSlice",
            Self::InferencePools => "InferencePool",
            Self::ModelServers => "ModelServer",
            Self::ModelRoutes => "ModelRoute",
            Self::HttpRoutes => "HTTPRoute",
            Self::Gateways => "Gateway",
            Self::Workloads => "Deployment or ModelServing",
            Self::Policies => "EnvoyExtensionPolicy",
        })
    }
}

impl Source {
    /// What a cluster or a folder tells.
    pub(super) const OBJECTS: [Self; 11] = [
        Self::Pods,
        Self::Engines,
        Self::Services,
        Self::EndpointSlices,
        Self::InferencePools,
        Self::ModelServers,
        Self::ModelRoutes,
        Self::HttpRoutes,
        Self::Gateways,
        Self::Workloads,
        Self::Policies,
    ];
}

/// Everything that was read, and what could not be.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Objects of a cluster or of a folder.
    pub(super) objects: Objects,
    /// One Envoy's listeners, routes and clusters.
    pub(super) envoy: Option<Envoy>,
    /// What one picker says of itself.
    pub(super) picker: Option<Picker>,
    /// What was read. Of a folder only the kinds that it has: it may be a part of a cluster.
    pub(super) read: BTreeSet<Source>,
    /// Why something was not.
    pub(super) unread: BTreeMap<Source, String>,
    /// Kinds that the cluster does not have.
    pub(super) missing_kinds: BTreeSet<Source>,
    /// What was asked for and cannot be read.
    pub(super) unreadable: Vec<Unreadable>,
    /// Whether the objects are those of a running cluster, so that somebody is to have answered.
    pub(super) live: bool,
    /// The only namespace whose objects were read.
    pub(super) namespace: Option<String>,
    /// Whether Gateways were read of all namespaces all the same.
    pub(super) all_gateways: bool,
}

/// A file, an address or an object that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) what: String,
    pub(super) problem: String,
    pub(super) fix: String,
}

impl Facts {
    /// Takes an object in, or says why it cannot be.
    pub(super) fn add(&mut self, object: Value) {
        let what = objects::title(&object);
        match self.objects.add(object) {
            Ok(sources) => self.read.extend(sources),
            Err(problem) => self.unreadable(what, problem, "write the field as its definition says (kubectl explain)"),
        }
    }

    /// Takes note of what cannot be read.
    pub(super) fn unreadable(&mut self, what: String, problem: String, fix: &str) {
        self.unreadable.push(Unreadable { what, problem, fix: fix.to_owned() });
    }

    /// Takes note of whether any pod may be an engine: what is behind no pool's picker Service.
    pub(super) fn tell_engines(&mut self) {
        let objects = &self.objects;
        let pickers: Vec<_> = objects.services.iter().filter(|service| objects.is_pickers(service)).collect();
        if objects.pods.iter().any(|pod| !pickers.iter().any(|service| objects::leads_to(service, pod))) {
            self.read.insert(Source::Engines);
        }
    }

    /// Takes note that none of these was read, and why.
    pub(super) fn unread(&mut self, sources: impl IntoIterator<Item = Source>, why: &str) {
        self.unread.extend(sources.into_iter().map(|source| (source, why.to_owned())));
    }

    /// Why nothing is known of any of these; `None` if something is.
    pub(super) fn lacks(&self, any_of: &[Source]) -> Option<String> {
        if any_of.iter().any(|source| self.read.contains(source)) {
            return None;
        }
        let (unread, absent): (Vec<&Source>, Vec<&Source>) = any_of.iter().partition(|it| self.unread.contains_key(it));
        let names: Vec<String> = absent.iter().map(|source| format!("no {source}")).collect();
        let mut reasons: Vec<String> = Vec::new();
        if !names.is_empty() {
            reasons.push(format!("{} was given", names.join(" and ")));
        }
        for why in unread.into_iter().filter_map(|source| self.unread.get(source)) {
            if !reasons.contains(why) {
                reasons.push(why.clone());
            }
        }
        Some(reasons.join(" and "))
    }
}
