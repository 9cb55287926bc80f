//! Envoy's side: whether the picker is asked, is shown what it needs, is waited for, and is obeyed.

use serde_json::{Value, json};

use super::{Check, Found, list, policies};
use crate::doctor::DESTINATION;
use crate::doctor::facts::envoy::{Body, Cluster, Envoy, ExtProc, Route};
use crate::doctor::facts::{Facts, Source};

/// In seconds; a picker answers within milliseconds, but not while its machine is busy, or an engine is asked for
/// tokens.
const SHORT: f64 = 1.0;
/// In seconds: the picker's `--prefill-timeout` as it is by default, and one more.
const PREFILL: f64 = 21.0;
/// In seconds; answers of a large model take minutes.
const ANSWER: f64 = 60.0;

fn at(route: &Route, filter: &ExtProc) -> String {
    format!("Envoy listener {}, filter {}", route.listener, filter.name)
}

fn route_title(route: &Route) -> String {
    format!("Envoy listener {}, route {}", route.listener, route.name)
}

/// What one check says of every route with its cluster and the filter that asks the picker.
fn picked(facts: &Facts, find: impl Fn(&Route, &Cluster, &ExtProc) -> Option<Found>) -> Vec<Found> {
    let picked = facts.envoy.iter().flat_map(Envoy::picked);
    picked.filter_map(|(route, cluster, filter)| find(route, cluster, filter)).collect()
}

pub(super) const PICKER_NOT_ASKED: Check = Check {
    id: "picker-not-asked",
    about: "a route leads to a cluster that obeys a picker, and no filter asks one",
    needs: &[&[Source::Envoy]],
    find: picker_not_asked,
};

fn picker_not_asked(facts: &Facts) -> Vec<Found> {
    let steered = facts.envoy.iter().flat_map(Envoy::steered);
    let found = |(route, _): (&Route, &Cluster)| {
        route.filters.is_empty().then(|| {
            Found::error(
                route_title(route),
                format!("cluster {} waits for a pick, and no ext_proc filter is on here", route.cluster),
                "switch the picker's filter on for this route: not disabled, and request_header_mode SEND",
            )
        })
    };
    steered.filter_map(found).collect()
}

pub(super) const PICK_IGNORED: Check = Check {
    id: "pick-ignored",
    about: "the picker is asked, and the route's cluster takes no heed of what it says",
    needs: &[&[Source::Envoy, Source::Policies]],
    find: |facts| [pick_ignored(facts), policies::pick_ignored(facts)].concat(),
};

fn pick_ignored(facts: &Facts) -> Vec<Found> {
    let Some(envoy) = &facts.envoy else { return Vec::new() };
    let asked = envoy.routes.iter().filter(|route| route.filters.iter().any(ExtProc::may_steer));
    let deaf = asked.filter(|route| envoy.clusters.get(&route.cluster).is_some_and(|cluster| !cluster.steering.any()));
    let found = |route: &Route| {
        let problem = format!("route {} asks the picker, and the cluster does not obey it", route.name);
        let fix = "give the cluster the override_host policy, or switch the filter off for this route";
        Found::error(format!("Envoy cluster {}", route.cluster), problem, fix).with(override_host())
    };
    deaf.map(found).collect()
}

fn override_host() -> Value {
    json!({"load_balancing_policy": {"policies": [{"typed_extension_config": {
        "name": "envoy.load_balancing_policies.override_host",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
            "override_host_sources": [{"metadata": {"key": "envoy.lb", "path": [{"key": DESTINATION}]}}],
            "fallback_policy": {"policies": [{"typed_extension_config": {
                "name": "envoy.load_balancing_policies.round_robin",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
                },
            }}]},
        },
    }}]}})
}

pub(super) const PICKER_NOT_HTTP2: Check = Check {
    id: "picker-not-http2",
    about: "the picker's cluster speaks HTTP/1, and gRPC needs HTTP/2",
    needs: &[&[Source::Envoy]],
    find: picker_not_http2,
};

fn picker_not_http2(facts: &Facts) -> Vec<Found> {
    picked(facts, |_, _, filter| {
        let cluster = facts.envoy.as_ref()?.clusters.get(&filter.cluster).filter(|cluster| !cluster.http2)?;
        let how = if cluster.tls { "over TLS too" } else { "without TLS" };
        let found = Found::error(
            format!("Envoy cluster {}", filter.cluster),
            format!("filter {} calls it by gRPC, and it speaks HTTP/1", filter.name),
            format!("let it speak HTTP/2, {how}"),
        );
        Some(found.with(json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        }})))
    })
}

pub(super) const BODY_HIDDEN: Check = Check {
    id: "body-hidden",
    about: "the picker does not see the request's body, and so neither model nor prompt",
    needs: &[&[Source::Envoy, Source::Policies]],
    find: |facts| [body_hidden(facts), policies::body_hidden(facts)].concat(),
};

fn body_hidden(facts: &Facts) -> Vec<Found> {
    picked(facts, |route, _, filter| {
        if filter.request_body != Body::None || (filter.on_demand() && filter.mode_override) {
            return None;
        }
        let (problem, fix, part) = if filter.on_demand() {
            (
                "the picker is asked to ask for the body (x-kthena-mode-override), and may not",
                "let the filter allow it",
                json!({"allow_mode_override": true}),
            )
        } else {
            (
                "request_body_mode is NONE: the picker sees neither model nor prompt, and goes by load alone",
                "let the picker see the body",
                json!({"processing_mode": {"request_body_mode": "FULL_DUPLEX_STREAMED", "request_trailer_mode": "SEND"}}),
            )
        };
        Some(Found::error(at(route, filter), problem, fix).with(part))
    })
}

pub(super) const MESSAGE_TIMEOUT_SHORT: Check = Check {
    id: "message-timeout-short",
    about: "Envoy gives the picker up before it has answered",
    needs: &[&[Source::Envoy, Source::Policies]],
    find: |facts| [message_timeout_short(facts), policies::message_timeout_short(facts)].concat(),
};

fn message_timeout_short(facts: &Facts) -> Vec<Found> {
    let pairs = facts.objects.servers.iter().any(|server| server.spec.workload_selector.pd_group.is_some());
    picked(facts, |route, _, filter| {
        // Envoy 1.40 has no timer in this mode.
        if filter.request_body == Body::FullDuplex {
            return None;
        }
        if filter.message_timeout < SHORT {
            let problem = format!(
                "message_timeout is {} s (0.2 s where it is not set): a busy moment of the picker is a 504",
                filter.message_timeout
            );
            let found = Found::error(at(route, filter), problem, "wait longer: the picker has deadlines of its own");
            return Some(found.with(json!({"message_timeout": "5s"})));
        }
        let longest = filter.message_timeout.max(filter.max_message_timeout);
        (pairs && longest < PREFILL && !filter.on_demand()).then(|| {
            let problem = format!("it waits at most {longest} s, and the picker's answer may hold a prefill");
            let fix = "wait at least the picker's --prefill-timeout and 1 s; with its defaults that is 21 s";
            Found::warning(at(route, filter), problem, fix).with(json!({"max_message_timeout": "21s"}))
        })
    })
}

pub(super) const METADATA_NOT_RECEIVED: Check = Check {
    id: "metadata-not-received",
    about: "a cluster obeys metadata alone, and the picker may not write it",
    needs: &[&[Source::Envoy]],
    find: metadata_not_received,
};

fn metadata_not_received(facts: &Facts) -> Vec<Found> {
    picked(facts, |route, cluster, filter| {
        let deaf = cluster.steering.metadata && !cluster.steering.header && !filter.may_steer();
        let found = || {
            Found::error(
                at(route, filter),
                format!("cluster {} obeys the metadata envoy.lb, which the filter drops", route.cluster),
                "let the filter receive that namespace",
            )
            .with(json!({"metadata_options": {"receiving_namespaces": {"untyped": ["envoy.lb"]}}}))
        };
        deaf.then(found)
    })
}

pub(super) const SERVED_ENDPOINT_LOST: Check = Check {
    id: "served-endpoint-lost",
    about: "Envoy notes which endpoint served, and the picker is not told",
    needs: &[&[Source::Envoy]],
    find: served_endpoint_lost,
};

fn served_endpoint_lost(facts: &Facts) -> Vec<Found> {
    picked(facts, |route, cluster, filter| {
        let told = filter.forwarded.contains("envoy.lb") && filter.response_headers;
        let found = || {
            Found::warning(
                at(route, filter),
                format!("cluster {} notes who served, and the picker does not hear of it after a retry", route.cluster),
                "show the picker response headers, and forward the namespace envoy.lb",
            )
            .with(json!({
                "processing_mode": {"response_header_mode": "SEND"},
                "metadata_options": {"forwarding_namespaces": {"untyped": ["envoy.lb"]}},
            }))
        };
        (cluster.tells_served && !told).then(found)
    })
}

pub(super) const STEERING_HEADER_KEPT: Check = Check {
    id: "steering-header-kept",
    about: "a client's own header chooses the endpoint whenever the picker does not",
    needs: &[&[Source::Envoy, Source::Policies]],
    find: |facts| [steering_header_kept(facts), policies::steering_header_kept(facts)].concat(),
};

fn steering_header_kept(facts: &Facts) -> Vec<Found> {
    let steered = facts.envoy.iter().flat_map(Envoy::steered);
    let found = |(route, cluster): (&Route, &Cluster)| {
        // A picker that must be asked overwrites it.
        let bypassed = route.picker().is_none_or(|filter| filter.fail_open);
        (cluster.steering.header && bypassed && !route.stripped.contains(DESTINATION)).then(|| {
            Found::error(
                format!("Envoy listener {}", route.listener),
                format!(
                    "cluster {} obeys the header {DESTINATION}, and without the picker's answer that is the client's own",
                    route.cluster
                ),
                "remove it from requests before any filter, in the HttpConnectionManager",
            )
            .with(json!({"early_header_mutation_extensions": [{
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    "mutations": [{"remove": DESTINATION}],
                },
            }]}))
        })
    };
    steered.filter_map(found).collect()
}

pub(super) const TWO_FILTERS_ONE_POOL: Check = Check {
    id: "two-filters-one-pool",
    about: "a request is shown to the picker twice",
    needs: &[&[Source::Envoy]],
    find: two_filters_one_pool,
};

fn two_filters_one_pool(facts: &Facts) -> Vec<Found> {
    let same = |one: &ExtProc, other: &ExtProc| {
        let call = one.authority == other.authority && (one.cluster == other.cluster || !one.authority.is_empty());
        call || (one.may_steer() && other.may_steer())
    };
    let mut found = Vec::new();
    for route in facts.envoy.iter().flat_map(|envoy| &envoy.routes) {
        let mut rest = route.filters.as_slice();
        while let Some((first, others)) = rest.split_first() {
            let twins: Vec<&str> =
                others.iter().filter(|other| same(first, other)).map(|other| other.name.as_str()).collect();
            if !twins.is_empty() {
                let problem = format!("its requests go to the picker by {} and by {}", first.name, list(twins));
                let fix =
                    "leave one of them on; the last one's pick holds, and the load of the others is counted in vain";
                found.push(Found::error(route_title(route), problem, fix));
            }
            rest = others;
        }
    }
    found
}

pub(super) const FAIL_OPEN_IN_VAIN: Check = Check {
    id: "fail-open-in-vain",
    about: "requests are to go on without the picker, and those with a body will not",
    needs: &[&[Source::Envoy]],
    find: fail_open_in_vain,
};

fn fail_open_in_vain(facts: &Facts) -> Vec<Found> {
    picked(facts, |route, _, filter| {
        let picker = facts.envoy.as_ref()?.clusters.get(&filter.cluster)?;
        let known_to_be_down = picker.watched && picker.no_panic;
        (filter.fail_open && filter.request_body == Body::FullDuplex && !known_to_be_down).then(|| {
            Found::warning(
                at(route, filter),
                "failure_mode_allow holds only until Envoy has sent a piece of the body: with FULL_DUPLEX_STREAMED a \
                 request with a body is a 500 when the picker is gone",
                format!(
                    "let Envoy know that a picker is down: health checks in cluster {} and no panic",
                    filter.cluster
                ),
            )
            .with(json!({
                "health_checks": [{
                    "timeout": "1s", "interval": "1s", "no_traffic_interval": "1s",
                    "unhealthy_threshold": 2, "healthy_threshold": 1,
                    "grpc_health_check": {"service_name": "envoy.service.ext_proc.v3.ExternalProcessor"},
                }],
                "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            }))
        })
    })
}

pub(super) const ANSWER_CUT: Check = Check {
    id: "answer-cut",
    about: "a route's time limit cuts long answers",
    needs: &[&[Source::Envoy]],
    find: answer_cut,
};

fn answer_cut(facts: &Facts) -> Vec<Found> {
    let steered = facts.envoy.iter().flat_map(Envoy::steered);
    let found = |(route, _): (&Route, &Cluster)| {
        (route.timeout > 0.0 && route.timeout <= ANSWER).then(|| {
            let problem =
                format!("an answer that takes longer than {} s is cut (15 s where it is not set)", route.timeout);
            let fix = "leave the time to the engine; in an HTTPRoute: timeouts: {request: 0s}";
            Found::warning(route_title(route), problem, fix).with(json!({"route": {"timeout": "0s"}}))
        })
    };
    steered.filter_map(found).collect()
}

#[cfg(test)]
mod tests;
