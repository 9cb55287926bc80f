//! A ModelRoute becomes HTTPRoutes: as many as its names need at its Gateways, mostly one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use controller_api::conditions as words;
use controller_api::http_route::{HttpRoute, HttpRouteSpec, Match, Rule, Timeouts};
use controller_api::v1alpha1::model_route::{ModelRoute, ModelRouteStatus};
use controller_api::v1alpha1::model_server::ModelServer;
use jiff::Timestamp;

use super::backends::{backends, missing};
use super::claims::{Claim, Claims, claims};
use super::conditions::{Verdict, conditions, events, list, says_the_same};
use super::matches::{Matchable, matchable};
use super::order::{MATCHES, Order};
use super::{Ownership, is_alive, owned, ownership, parents};
use crate::plan::Event;

/// The most matches of an HTTPRoute.
const ROUTE_MATCHES: usize = 127;
/// The longest name of an object to which a number can still be added.
const NAME_LENGTH: usize = 249;

/// What a ModelRoute's HTTPRoutes and status depend on.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// The ModelRoutes that share a name with it; itself may be among them.
    pub rivals: &'a [Arc<ModelRoute>],
    /// The ModelServers of its namespace.
    pub servers: &'a [Arc<ModelServer>],
    /// Whether the cluster has HTTPRoutes.
    pub served: bool,
    /// The HTTPRoutes of its namespace.
    pub routes: &'a [Arc<HttpRoute>],
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Applied.
    pub apply: Vec<HttpRoute>,
    /// Names and UIDs of HTTPRoutes, which are deleted.
    pub delete: Vec<(String, String)>,
    /// The whole status.
    pub status: Option<Box<ModelRouteStatus>>,
    /// Whether somebody may wait for the status: more than a message changed.
    pub urgent: bool,
    /// Told once all is written.
    pub events: Vec<Event>,
}

/// What to write for a ModelRoute. Times are whole seconds.
#[must_use]
pub fn answer(route: &ModelRoute, around: Around<'_>, now: Timestamp) -> Answer {
    let mut answer = Answer::default();
    if !is_alive(&route.metadata) {
        return answer;
    }
    let (accepted, names) = accept(route, around, &mut answer);
    let missing = missing(&route.spec.rules, around.servers);
    let resolved = if missing.is_empty() {
        Verdict::yes(words::RESOLVED_REFS, "all ModelServers are there".to_owned())
    } else {
        let message = format!("these ModelServers are not there: {}", list(&missing));
        Verdict::no(words::MODEL_SERVER_NOT_FOUND, message)
    };
    let mut verdicts = vec![(words::ACCEPTED, accepted), (words::RESOLVED_REFS, resolved)];
    // What waits for a gateway mends itself.
    let mut stalling = verdicts.len();
    if !names.is_empty() {
        let verdict = gateways(&names, around, &answer);
        stalling += usize::from(verdict.reason != words::GATEWAY_PENDING);
        verdicts.push((words::ACCEPTED_BY_GATEWAYS, verdict));
    }
    let none = ModelRouteStatus::default();
    let before = route.status.as_ref().unwrap_or(&none);
    let generation = route.metadata.generation.unwrap_or_default();
    let status = ModelRouteStatus {
        observed_generation: Some(generation),
        conditions: conditions(&verdicts, stalling, generation, &before.conditions, now),
    };
    if status != *before {
        answer.urgent = !says_the_same(&before.conditions, &status.conditions);
        answer.events = events(verdicts.get(..stalling).unwrap_or_default(), &before.conditions);
        answer.status = Some(Box::new(status));
    }
    answer
}

/// What the gateways say about the HTTPRoutes of these names, as they will be.
fn gateways(names: &[String], around: Around<'_>, answer: &Answer) -> Verdict {
    let all = || answer.apply.iter().chain(around.routes.iter().map(Arc::as_ref));
    let named = |name: &String| all().find(|route| route.metadata.name.as_ref() == Some(name));
    parents::verdict(&names.iter().filter_map(named).collect::<Vec<_>>())
}

/// What the gateways get, and what to write so that they do; with the names of the HTTPRoutes that are as they should.
fn accept(route: &ModelRoute, around: Around<'_>, answer: &mut Answer) -> (Verdict, Vec<String>) {
    let limits = route.spec.rate_limit.as_ref().map(|_| "; a gateway does not know its rateLimit").unwrap_or_default();
    if route.spec.parent_refs.is_empty() {
        retire(route, around, 0, answer);
        let message = format!("without parentRefs only the pickers of its ModelServers' pools resolve it{limits}");
        return (Verdict::yes(words::RESOLVED_BY_PICKER, message), Vec::new());
    }
    if !around.served {
        let message = "the cluster has no HTTPRoutes: install the CustomResourceDefinitions of the Gateway API, v1.2 or \
                       later";
        return (Verdict::no(words::KIND_MISSING, message.to_owned()), Vec::new());
    }
    let Claims { held, lost } = claims(route, around.rivals);
    if held.is_empty() {
        retire(route, around, 0, answer);
        return (Verdict::no(words::CONFLICTED, format!("no name is left for it: {}", list(&lost))), Vec::new());
    }
    let mut notes = BTreeMap::new();
    let specs: Vec<HttpRouteSpec> =
        held.iter().flat_map(|claim| specs(route, claim, around.servers, &mut notes)).collect();
    let notes: Vec<String> = notes.iter().map(|(rule, note)| format!("rule {} {note}", rule + 1)).collect();
    if specs.is_empty() {
        // What was matchable goes on as it was.
        return (
            Verdict::no(words::NOT_MATCHABLE, format!("a gateway can match none of its rules: {}", list(&notes))),
            Vec::new(),
        );
    }
    let names: Vec<String> = (0..specs.len()).map(|index| name(route, index)).collect();
    let found = |name: &String| around.routes.iter().find(|found| found.metadata.name.as_ref() == Some(name));
    let clash = |name: &&String| {
        found(name).is_some_and(|found| ownership::<ModelRoute>(&route.metadata, &found.metadata) != Ownership::Ours)
    };
    if let Some(name) = names.iter().find(clash) {
        let message = format!(
            "the HTTPRoute {name} was made by somebody else and is left as it is: delete it, or rename the ModelRoute"
        );
        return (Verdict::no(words::NAME_CLASH, message), Vec::new());
    }
    retire(route, around, names.len(), answer);
    let shared = shared(route, around.servers);
    for (name, spec) in names.iter().zip(specs) {
        if found(name).is_none_or(|found| found.spec != spec && is_alive(&found.metadata)) {
            let metadata = owned::<ModelRoute>(&route.metadata, name.clone());
            answer.apply.push(HttpRoute { metadata, spec, status: None });
        }
    }
    let mut message = format!("HTTPRoute {} matches its names", list(&names));
    for part in lost.iter().chain(&notes) {
        message.push_str("; ");
        message.push_str(part);
    }
    if !shared.is_empty() {
        message.push_str(&format!(
            "; rule {} shares requests among pools: Istio asks the picker of the heaviest alone, so let all have the \
             same model, and Envoy AI Gateway takes one pool a rule",
            list(&shared)
        ));
    }
    let complete = lost.is_empty() && notes.is_empty();
    let reason = if complete { words::ACCEPTED } else { words::PARTIALLY_ACCEPTED };
    (Verdict::yes(reason, message + limits), names)
}

/// The numbers of the rules whose requests a gateway shares among pools.
fn shared(route: &ModelRoute, servers: &[Arc<ModelServer>]) -> Vec<String> {
    let rules = route.spec.rules.iter().enumerate();
    let shared = rules.filter(|(_, rule)| backends(rule, servers).iter().filter(|it| it.weight != Some(0)).count() > 1);
    shared.map(|(number, _)| (number + 1).to_string()).collect()
}

/// Deletes the HTTPRoutes of a ModelRoute behind the first `kept`.
fn retire(route: &ModelRoute, around: Around<'_>, kept: usize, answer: &mut Answer) {
    let kept: BTreeSet<String> = (0..kept).map(|index| name(route, index)).collect();
    for found in around.routes {
        let (Some(name), Some(uid)) = (&found.metadata.name, &found.metadata.uid) else { continue };
        let ours = ownership::<ModelRoute>(&route.metadata, &found.metadata) == Ownership::Ours;
        if ours && is_alive(&found.metadata) && !kept.contains(name) {
            answer.delete.push((name.clone(), uid.clone()));
        }
    }
}

/// The name of the HTTPRoute of this number.
fn name(route: &ModelRoute, index: usize) -> String {
    let name = route.metadata.name.as_deref().unwrap_or_default();
    match index {
        0 => name.to_owned(),
        _ => format!("{}-{}", name.get(..NAME_LENGTH).unwrap_or(name), index + 1),
    }
}

/// HTTPRoutes for the names of a claim, as few as hold all matches. Two of them never match the same request, so that
/// their order does not matter.
fn specs(
    route: &ModelRoute,
    claim: &Claim<'_>,
    servers: &[Arc<ModelServer>],
    notes: &mut BTreeMap<usize, String>,
) -> Vec<HttpRouteSpec> {
    let mut all: Vec<Vec<(usize, Match)>> = Vec::new();
    for model in &claim.names {
        let mut matches = matches(route, model, notes);
        match all.last_mut() {
            Some(last) if fits(last, &matches) => last.append(&mut matches),
            _ if matches.is_empty() => {}
            _ => all.push(matches),
        }
    }
    let spec = |matches: Vec<(usize, Match)>| {
        let mut by_rule: BTreeMap<usize, Vec<Match>> = BTreeMap::new();
        for (rule, one) in matches {
            by_rule.entry(rule).or_default().push(one);
        }
        let rule = |(number, matches): (usize, Vec<Match>)| {
            route.spec.rules.get(number).map(|rule| Rule {
                matches,
                backend_refs: backends(rule, servers),
                // A generation takes as long as it takes; what ends it is the engine or the client.
                timeouts: Some(Timeouts { request: Some("0s".to_owned()) }),
            })
        };
        let rules = by_rule.into_iter().filter_map(rule).collect();
        HttpRouteSpec { parent_refs: claim.parents.clone(), rules }
    };
    all.into_iter().map(spec).collect()
}

/// Whether an HTTPRoute holds these matches too.
fn fits(held: &[(usize, Match)], more: &[(usize, Match)]) -> bool {
    let of = |matches: &[(usize, Match)], rule: usize| matches.iter().filter(|(other, _)| *other == rule).count();
    held.len() + more.len() <= ROUTE_MATCHES
        && held.iter().chain(more).all(|(rule, _)| of(held, *rule) + of(more, *rule) <= MATCHES)
}

/// The matches of requests for one name, each with the number of its rule.
fn matches(route: &ModelRoute, model: &str, notes: &mut BTreeMap<usize, String>) -> Vec<(usize, Match)> {
    let mut order = Order::default();
    for (number, rule) in route.spec.rules.iter().enumerate() {
        let note = match matchable(rule, model) {
            Matchable::Whole(conditions) => {
                order.add(number, conditions);
                continue;
            }
            // It may be meant for another name.
            Matchable::Never(_) if meets_another_name(route, rule) => continue,
            Matchable::Never(why) => format!("matches no request: {why}"),
            Matchable::Not(why) => {
                format!("is left to the picker of the pool that another rule leads to: {why}")
            }
        };
        notes.insert(number, note);
    }
    for (rule, note) in order.notes {
        notes.entry(rule).or_insert(note);
    }
    order.matches.iter().map(|(rule, conditions)| (*rule, conditions.for_model(model))).collect()
}

/// Whether a rule has a condition on the body's `model` that another name of the route meets.
fn meets_another_name(route: &ModelRoute, rule: &controller_api::v1alpha1::model_route::Rule) -> bool {
    let wanted = rule.model_match.as_ref().and_then(|conditions| conditions.body.as_ref()?.model.as_deref());
    wanted.is_some_and(|wanted| super::claims::names(route).iter().any(|(name, _)| *name == wanted))
}
