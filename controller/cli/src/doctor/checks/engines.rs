//! Engines, as a picker sees them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Found, list};
use crate::doctor::facts::picker::{EndpointState, Picker};
use crate::doctor::facts::{Facts, Source};

/// Gauges that are older are no longer looked at every few hundred milliseconds, or not answered.
const OLD_MS: u64 = 30_000;

/// Endpoints by the pool that they are told of.
fn by_pool(picker: &Picker, which: impl Fn(&EndpointState) -> bool) -> BTreeMap<String, Vec<&EndpointState>> {
    let mut pools: BTreeMap<String, Vec<&EndpointState>> = BTreeMap::new();
    for endpoint in picker.endpoints.iter().filter(|endpoint| which(endpoint)) {
        pools.entry(format!("InferencePool {}", endpoint.pool)).or_default().push(endpoint);
    }
    pools
}

fn addresses(endpoints: &[&EndpointState]) -> String {
    list(endpoints.iter().map(|endpoint| &endpoint.address))
}

pub(super) const ENGINE_METRICS_SILENT: Check = Check {
    id: "engine-metrics-silent",
    about: "an engine does not tell the picker its load (/metrics)",
    needs: &[&[Source::Picker]],
    find: engine_metrics_silent,
};

fn engine_metrics_silent(facts: &Facts) -> Vec<Found> {
    const FIX: &str = "see that http://ADDRESS/metrics answers from the picker's pod: is it the engine's port, does a \
                       NetworkPolicy let it through, does the ModelServer name the right inferenceEngine?";
    let Some(picker) = &facts.picker else { return Vec::new() };
    let never = by_pool(picker, |it| it.ready && it.gauges_age_ms.is_none());
    let never = never.into_iter().map(|(pool, endpoints)| {
        Found::error(pool, format!("these engines have never told their load: {}", addresses(&endpoints)), FIX)
    });
    let old = by_pool(picker, |it| it.ready && it.gauges_age_ms.is_some_and(|age| age > OLD_MS));
    let old = old.into_iter().map(|(pool, endpoints)| {
        let problem = format!("these engines no longer tell their load: {}", addresses(&endpoints));
        Found::warning(pool, problem, FIX)
    });
    never.chain(old).collect()
}

pub(super) const MODEL_NOT_SERVED: Check = Check {
    id: "model-not-served",
    about: "a ModelServer names a model that its engines do not have",
    needs: &[&[Source::Picker]],
    find: model_not_served,
};

fn model_not_served(facts: &Facts) -> Vec<Found> {
    let Some(picker) = &facts.picker else { return Vec::new() };
    let mut found = Vec::new();
    for server in &picker.servers {
        let Some(model) = &server.model else { continue };
        let mut has = BTreeSet::new();
        let mut without = Vec::new();
        for endpoint in picker.endpoints.iter().filter(|endpoint| server.pods.contains(&endpoint.name)) {
            let Some(models) = endpoint.models.as_ref().filter(|models| !models.contains(model)) else { continue };
            has.extend(models);
            without.push(endpoint);
        }
        if !without.is_empty() {
            found.push(Found::error(
                format!("ModelServer {}", server.name),
                format!("these engines have no model {model}, but {}: {}", list(has), addresses(&without)),
                "let spec.model be the name under which the engines serve it (vLLM's --served-model-name)",
            ));
        }
    }
    found
}

pub(super) const KV_EVENTS_SILENT: Check = Check {
    id: "kv-events-silent",
    about: "kvcache-aware is on, and an engine's KV events do not come",
    needs: &[&[Source::Picker]],
    find: kv_events_silent,
};

fn kv_events_silent(facts: &Facts) -> Vec<Found> {
    let Some(picker) = &facts.picker else { return Vec::new() };
    let silent = by_pool(picker, |it| it.ready && it.kv_events.iter().any(|events| !events.connected));
    let found = |(pool, endpoints): (String, Vec<&EndpointState>)| {
        Found::warning(
            pool,
            format!("no KV events come from {}: their caches are only guessed", addresses(&endpoints)),
            "start vLLM with --kv-events-config '{\"enable_kv_cache_events\": true, \"publisher\": \"zmq\", \"endpoint\": \
             \"tcp://*:5557\", \"replay_endpoint\": \"tcp://*:5558\"}', at the picker's --kv-events-port",
        )
    };
    silent.into_iter().map(found).collect()
}

pub(super) const TOKENIZER_MISSING: Check = Check {
    id: "tokenizer-missing",
    about: "kvcache-aware is on, and the picker has no tokenizer of a model",
    needs: &[&[Source::Picker]],
    find: tokenizer_missing,
};

fn tokenizer_missing(facts: &Facts) -> Vec<Found> {
    let Some(picker) = &facts.picker else { return Vec::new() };
    let object = format!("picker at {}", picker.address);
    let tokenizers = picker.tokenizers.clone().unwrap_or_default();
    let broken = tokenizers
        .last_error
        .map(|error| Found::error(object.clone(), error, "mend the file; the picker reads it again within seconds"));
    let listening: Vec<&EndpointState> = picker.endpoints.iter().filter(|it| !it.kv_events.is_empty()).collect();
    let served = |model: &String| listening.iter().any(|it| it.models.as_ref().is_some_and(|all| all.contains(model)));
    // Adapters have their base model's.
    let models: BTreeSet<&String> = picker.servers.iter().filter_map(|server| server.model.as_ref()).collect();
    let without: Vec<&&String> =
        models.iter().filter(|model| served(model) && !tokenizers.models.contains(model)).collect();
    let missing = (!without.is_empty()).then(|| {
        Found::warning(
            object,
            format!(
                "it has no tokenizer of {}: engines are asked for tokens, for at most 150 ms a request",
                list(without)
            ),
            "put tokenizer.json, tokenizer_config.json and chat_template.jinja into a folder of the model's name below \
             --tokenizer-dir",
        )
    });
    broken.into_iter().chain(missing).collect()
}

#[cfg(test)]
mod tests;
