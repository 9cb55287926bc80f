//! A cluster's objects, kind by kind: what is forbidden or not there leaves the others.

use futures_util::future::join_all;
use serde_json::Value;

use super::folder::named;
use crate::args::ClusterArgs;
use crate::cluster::{Cluster, Kind, Refusal};
use crate::doctor::facts::{Facts, Source, policies};

/// What is read, each with what it is a source of.
const KINDS: &[(Source, Kind)] = &[
    (Source::Pods, Kind { group: "", version: "v1", kind: "Pod", plural: "pods" }),
    (Source::Services, Kind { group: "", version: "v1", kind: "Service", plural: "services" }),
    (
        Source::EndpointSlices,
        Kind { group: "discovery.k8s.io", version: "v1", kind: "EndpointSlice", plural: "endpointslices" },
    ),
    (Source::Workloads, Kind { group: "apps", version: "v1", kind: "Deployment", plural: "deployments" }),
    (
        Source::Workloads,
        Kind {
            group: "workload.serving.volcano.sh",
            version: "v1alpha1",
            kind: "ModelServing",
            plural: "modelservings",
        },
    ),
    (
        Source::InferencePools,
        Kind { group: "inference.networking.k8s.io", version: "v1", kind: "InferencePool", plural: "inferencepools" },
    ),
    (
        Source::ModelServers,
        Kind {
            group: "networking.serving.volcano.sh",
            version: "v1alpha1",
            kind: "ModelServer",
            plural: "modelservers",
        },
    ),
    (
        Source::ModelRoutes,
        Kind { group: "networking.serving.volcano.sh", version: "v1alpha1", kind: "ModelRoute", plural: "modelroutes" },
    ),
    (
        Source::HttpRoutes,
        Kind { group: "gateway.networking.k8s.io", version: "v1", kind: "HTTPRoute", plural: "httproutes" },
    ),
    (Source::Policies, policy("EnvoyExtensionPolicy", "envoyextensionpolicies")),
    (Source::Policies, policy("BackendTrafficPolicy", "backendtrafficpolicies")),
    (Source::Policies, policy("ClientTrafficPolicy", "clienttrafficpolicies")),
];

/// A policy of Envoy Gateway's.
const fn policy(kind: &'static str, plural: &'static str) -> Kind {
    Kind { group: policies::GROUP, version: "v1alpha1", kind, plural }
}

const GATEWAYS: Kind = Kind { group: "gateway.networking.k8s.io", version: "v1", kind: "Gateway", plural: "gateways" };

pub(super) async fn read(args: &ClusterArgs, all_namespaces: bool, facts: &mut Facts) {
    let cluster = match Cluster::connect(args).await {
        Ok(cluster) => cluster,
        Err(error) => {
            let fix =
                "name a kubeconfig (--kubeconfig) or a context (--context), or check files: --config-dir, --envoy";
            facts.unread(Source::OBJECTS, "the cluster cannot be read");
            return facts.unreadable("cluster".to_owned(), crate::story(&error), fix);
        }
    };
    facts.live = true;
    let namespace = (!all_namespaces).then_some(cluster.namespace.as_str());
    facts.namespace = namespace.map(str::to_owned);
    // A Gateway is often in a namespace of its own.
    let gateways = async {
        match cluster.list(&GATEWAYS, None).await {
            Err(Refusal::Forbidden(_)) if namespace.is_some() => (false, cluster.list(&GATEWAYS, namespace).await),
            listed => (true, listed),
        }
    };
    let lists = join_all(KINDS.iter().map(|(_, kind)| cluster.list(kind, namespace)));
    let (lists, (all, gateways)) = futures_util::future::join(lists, gateways).await;
    facts.all_gateways = all;
    for ((source, kind), listed) in KINDS.iter().zip(lists) {
        take(*source, kind, listed, facts);
    }
    take(Source::Gateways, &GATEWAYS, gateways, facts);
    if facts.read.is_empty() {
        // The reason is the same for each kind then.
        let why = facts.unread.values().next().cloned().unwrap_or_default();
        facts.unread(Source::OBJECTS, "the cluster cannot be read");
        facts.unreadable(
            "cluster".to_owned(),
            why,
            "see that the cluster is up, and that its user may list these kinds",
        );
    }
}

fn take(source: Source, kind: &Kind, listed: Result<Vec<Value>, Refusal>, facts: &mut Facts) {
    match listed {
        Ok(objects) => {
            facts.read.insert(source);
            if source == Source::Pods {
                facts.read.insert(Source::Engines);
            }
            let version = kind.api_version();
            objects.into_iter().for_each(|object| facts.add(named(object, &version, kind.kind)));
        }
        Err(Refusal::NoSuchKind) => {
            facts.missing_kinds.insert(source);
            facts.unread.entry(source).or_insert_with(|| format!("the cluster has no {}", kind.kind));
        }
        Err(Refusal::Forbidden(why) | Refusal::Failed(why)) => {
            let why = format!("{} cannot be listed: {why}", kind.plural);
            if source == Source::Pods {
                facts.unread.insert(Source::Engines, why.clone());
            }
            facts.unread.insert(source, why);
        }
    }
}
