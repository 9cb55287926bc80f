use serde_json::{Value, json};

use super::*;
use crate::doctor::checks::Severity;
use crate::doctor::checks::tests::{folder, found, one, with_picker};

fn endpoint(more: Value) -> Value {
    let mut endpoint = json!({
        "pool": "serve/llama", "role": null, "name": "serve/llama-0", "address": "10.0.0.1:8000", "ready": true,
        "engine": "vLLM", "inFlight": 0, "uncachedTokens": 0,
    });
    if let (Some(fields), Value::Object(more)) = (endpoint.as_object_mut(), more) {
        fields.extend(more);
    }
    endpoint
}

fn facts(more: Value, tokenizers: &Value) -> Facts {
    let fleet = json!({"endpoints": [endpoint(more)], "pools": [], "generation": 1, "known": true});
    let server = json!({
        "name": "llama", "namespace": "serve", "spec": {"model": "org/llama"}, "associatedPods": ["serve/llama-0"],
    });
    let status = json!({"lastError": null, "tokenizers": tokenizers});
    with_picker(folder(vec![]), fleet, status, &json!({"modelservers": [server]}))
}

#[test]
fn an_engine_that_never_told_its_load_is_an_error_and_one_that_stopped_a_warning() {
    let error = one(&ENGINE_METRICS_SILENT, &facts(json!({}), &Value::Null));
    assert_eq!((error.severity, error.object.as_str()), (Severity::Error, "InferencePool serve/llama"));
    assert!(error.problem.contains("10.0.0.1:8000"), "{}", error.problem);
    let warning = one(&ENGINE_METRICS_SILENT, &facts(json!({"gaugesAgeMs": 60_000}), &Value::Null));
    assert_eq!(warning.severity, Severity::Warning);
    assert_eq!(found(&ENGINE_METRICS_SILENT, &facts(json!({"gaugesAgeMs": 200}), &Value::Null)), []);
    // What is not ready gets no requests either.
    assert_eq!(found(&ENGINE_METRICS_SILENT, &facts(json!({"ready": false}), &Value::Null)), []);
}

#[test]
fn a_model_that_no_engine_has_is_found() {
    let error = one(&MODEL_NOT_SERVED, &facts(json!({"models": ["llama-8b"]}), &Value::Null));
    assert_eq!(error.object, "ModelServer serve/llama");
    assert_eq!(error.problem, "these engines have no model org/llama, but llama-8b: 10.0.0.1:8000");
    assert_eq!(found(&MODEL_NOT_SERVED, &facts(json!({"models": ["org/llama", "sql"]}), &Value::Null)), []);
    // Not every engine lists them.
    assert_eq!(found(&MODEL_NOT_SERVED, &facts(json!({}), &Value::Null)), []);
}

#[test]
fn kv_events_that_do_not_come_are_found() {
    let events = |connected| json!({"kvEvents": [{"rank": 0, "connected": connected, "nextSequence": 0}]});
    one(&KV_EVENTS_SILENT, &facts(events(false), &Value::Null));
    assert_eq!(found(&KV_EVENTS_SILENT, &facts(events(true), &Value::Null)), []);
    assert_eq!(found(&KV_EVENTS_SILENT, &facts(json!({}), &Value::Null)), []);
}

#[test]
fn a_model_without_a_tokenizer_is_found_where_tokens_are_compared() {
    let listening =
        json!({"kvEvents": [{"rank": 0, "connected": true, "nextSequence": 1}], "models": ["org/llama", "sql"]});
    let warning = one(&TOKENIZER_MISSING, &facts(listening.clone(), &Value::Null));
    assert!(warning.problem.contains("org/llama") && !warning.problem.contains("sql"), "{}", warning.problem);
    let has = json!({"models": ["org/llama"], "lastError": null});
    assert_eq!(found(&TOKENIZER_MISSING, &facts(listening.clone(), &has)), []);
    let broken = json!({"models": ["org/llama"], "lastError": "org/llama/tokenizer.json: no model"});
    assert_eq!(one(&TOKENIZER_MISSING, &facts(listening, &broken)).severity, Severity::Error);
    assert_eq!(found(&TOKENIZER_MISSING, &facts(json!({"models": ["org/llama"]}), &Value::Null)), []);
}
