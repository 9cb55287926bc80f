//! Every template with its defaults, with other values, and with values that mean harm.

use std::path::Path;

use controller_api::http_route::HttpRoute;
use controller_api::leader_worker_set::LeaderWorkerSet;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use controller_api::v1alpha1::model_serving::ModelServing;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::declared::Kind;
use super::*;
use crate::args::Given;

/// Everything that means something to YAML, to a shell, or to the templates' own language.
const HARMFUL: &str =
    r#"a: b # "c" 'd' {e} [f] \ %g &h *i !j |k >l @m `n` ${o} $(p) {{ q }} {% r %} {# s #} - ? , ~ 07"#;
const HARMLESS: &str = "harmless";

fn made(template: &Template, values: &Map<String, Value>) -> Vec<Value> {
    template.render("llm", "serve", values).unwrap().objects
}

fn defaults(template: &Template) -> Map<String, Value> {
    template.settle(None, &[]).unwrap()
}

fn with(template: &Template, declared: &Declared, value: Value) -> Vec<Value> {
    declared.check(&value).unwrap();
    let mut values = defaults(template);
    values.insert(declared.name.clone(), value);
    made(template, &values)
}

fn set(template: &str, name: &str, word: &str) -> Result<Map<String, Value>, String> {
    let given = Given(vec![(name.to_owned(), word.to_owned())]);
    named(template).unwrap().settle(None, &[given]).map_err(|error| format!("{error:#}"))
}

#[test]
fn every_file_is_in_the_list() {
    // Cargo runs tests in the package's folder.
    let folder = Path::new("templates");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files.filter_map(|file| Some(file.strip_suffix(".yaml")?.to_owned())).collect();
    names.sort();
    assert_eq!(all().unwrap().iter().map(|template| template.name).collect::<Vec<_>>(), names);
}

#[test]
fn a_template_that_is_not_there_is_told_with_those_that_are() {
    let error = named("vlm").unwrap_err().to_string();
    assert!(error.contains("\"vlm\"") && error.contains("vllm, vllm-data-parallel"), "{error}");
}

#[test]
fn with_its_defaults_a_template_makes_what_a_model_needs_and_no_field_is_unknown() {
    for template in all().unwrap() {
        let objects = made(&template, &defaults(&template));
        let kinds: Vec<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        let first = if template.name == "leader-worker-set" { "LeaderWorkerSet" } else { "ModelServing" };
        assert_eq!(kinds, [first, "ModelServer", "ModelRoute", "HTTPRoute"], "{}", template.name);
        for object in &objects {
            assert_eq!(object["metadata"], json!({"name": "llm", "namespace": "serve"}));
            let kept = match object["kind"].as_str().unwrap() {
                "ModelServing" => typed::<ModelServing>(object),
                "LeaderWorkerSet" => typed::<LeaderWorkerSet>(object),
                "ModelServer" => typed::<ModelServer>(object),
                "ModelRoute" => typed::<ModelRoute>(object),
                _ => typed::<HttpRoute>(object),
            };
            assert_within(template.name, object, &kept);
        }
    }
}

fn typed<K: DeserializeOwned + Serialize>(object: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<K>(object.clone()).unwrap()).unwrap()
}

/// Nothing of `given` was lost on the way to `kept`.
fn assert_within(path: &str, given: &Value, kept: &Value) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given {
                let kept = kept.get(key).unwrap_or_else(|| panic!("{path}.{key} is no field of its kind"));
                assert_within(&format!("{path}.{key}"), value, kept);
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            assert_eq!(given.len(), kept.len(), "{path}");
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                assert_within(&format!("{path}[{index}]"), given, kept);
            }
        }
        (given, kept) => assert_eq!(given, kept, "{path}"),
    }
}

#[test]
fn a_value_that_is_changed_changes_what_is_made() {
    for template in all().unwrap() {
        let before = made(&template, &defaults(&template));
        for declared in template.values() {
            let another = match &declared.default {
                Value::Number(number) => json!(number.as_i64().unwrap() + 1),
                Value::Bool(switch) => json!(!switch),
                Value::Array(items) => json!([items.clone(), vec![json!("another=one")]].concat()),
                default => json!(declared.one_of.iter().find(|choice| *choice != default).map_or("another", |it| it)),
            };
            assert_ne!(with(&template, declared, another), before, "{} does not heed {}", template.name, declared.name);
        }
    }
}

#[test]
fn no_value_is_more_than_the_scalar_that_it_stands_for() {
    for template in all().unwrap() {
        for declared in template.values() {
            let (harmful, harmless) = match declared.kind() {
                Kind::Text if declared.one_of.is_empty() => (json!(HARMFUL), json!(HARMLESS)),
                Kind::List => (json!([format!("x={HARMFUL}")]), json!([format!("x={HARMLESS}")])),
                _ => continue,
            };
            let found = disarmed(&json!(with(&template, declared, harmful)));
            assert_eq!(found, json!(with(&template, declared, harmless)), "{} {}", template.name, declared.name);
        }
        let named = |name: &str| json!(template.render(name, name, &defaults(&template)).unwrap().objects);
        assert_eq!(disarmed(&named(HARMFUL)), named(HARMLESS), "{}", template.name);
    }
}

/// The harmful text is still there as it was, and is replaced by the harmless one.
fn disarmed(value: &Value) -> Value {
    match value {
        Value::String(text) => json!(text.replace(HARMFUL, HARMLESS)),
        Value::Array(items) => items.iter().map(disarmed).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.replace(HARMFUL, HARMLESS), disarmed(value)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

#[test]
fn requests_come_by_path_by_model_or_as_their_owner_pleases() {
    let template = named("vllm-lora").unwrap();
    let routes = |words: &[(&str, &str)]| {
        let given = words.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned())).collect();
        made(&template, &template.settle(None, &[Given(given)]).unwrap()).split_off(2)
    };
    let [by_path, route] = &routes(&[("adapters", "sql=a/b legal=c/d")])[..] else { panic!("two routes") };
    assert_eq!(by_path["spec"]["modelName"], "meta-llama/Llama-3.2-3B-Instruct");
    assert_eq!(by_path["spec"]["loraAdapters"], json!(["sql", "legal"]));
    assert!(by_path["spec"].get("parentRefs").is_none());
    assert_eq!(route["spec"]["rules"][0]["backendRefs"][0]["name"], "llm");

    let [by_model] = &routes(&[("routeBy", "model"), ("modelName", "assistant")])[..] else { panic!("one route") };
    assert_eq!(by_model["spec"]["modelName"], "assistant");
    assert_eq!(by_model["spec"]["parentRefs"], json!([{"name": "inference"}]));

    let [by_nobody] = &routes(&[("gateway", "")])[..] else { panic!("one route") };
    assert!(by_nobody["spec"].get("parentRefs").is_none());
}

#[test]
fn a_value_that_cannot_be_is_refused_by_its_name() {
    for (name, word, wanted) in [
        ("modle", "x", "the template vllm has no value \"modle\"; it has model, modelName, image, replicas"),
        ("name", "x", "--name"),
        ("namespace", "x", "-n"),
        ("gpus", "two", "gpus must be a whole number from 1 upwards, and is \"two\""),
        ("gpus", "0", "gpus must be a whole number"),
        ("gpus", "99999999999", "gpus must be a whole number"),
        ("kvEvents", "yes", "kvEvents must be true or false, and is \"yes\""),
        ("routeBy", "both", "routeBy must be one of path, model, and is \"both\""),
        ("model", "", "model must be a line of text"),
        ("model", "a\nb", "model must be a line of text"),
        ("image", "a\u{2028}b", "image must be a line of text"),
        ("engineArgs", "a\u{7}", "engineArgs must be a list of texts"),
    ] {
        let error = set("vllm", name, word).unwrap_err();
        assert!(error.starts_with("--set: ") && error.contains(wanted), "{error}");
    }
    assert_eq!(set("vllm", "modelName", "").unwrap()["modelName"], "");
    assert_eq!(set("vllm", "gateway", "").unwrap()["gateway"], "");
    assert_eq!(set("vllm", "engineArgs", "--a=1  --b").unwrap()["engineArgs"], json!(["--a=1", "--b"]));
}

#[test]
fn a_file_of_values_is_read_with_its_types_and_the_command_line_goes_before_it() {
    let template = named("vllm").unwrap();
    let file = std::env::temp_dir().join(format!("kthena-values-{}.yaml", std::process::id()));
    let settle = |text: &str, set: &[Given]| {
        std::fs::write(&file, text).unwrap();
        template.settle(Some(&file), set).map_err(|error| format!("{error:#}"))
    };
    let given = Given(vec![("gpus".to_owned(), "8".to_owned())]);
    let values = settle("model: a/b\ngpus: 4\nengineArgs: [--x, --y=z]\n", &[given]);
    let wrong = ["gpus: \"4\"", "modle: a", "- gpus", "engineArgs: --x", "model: 7", "gpus: [", "gpus: 1.5"]
        .map(|text| (text, settle(text, &[])));
    let nothing = settle("# nothing\n", &[]);
    std::fs::remove_file(&file).unwrap();

    let values = values.unwrap();
    assert_eq!((&values["model"], &values["gpus"]), (&json!("a/b"), &json!(8)));
    assert_eq!(values["engineArgs"], json!(["--x", "--y=z"]));
    assert_eq!(nothing.unwrap(), defaults(&template));
    for (text, found) in wrong {
        let error = found.unwrap_err();
        assert!(error.contains("kthena-values-"), "{text}: the file is not named: {error}");
    }
    let error = template.settle(Some(Path::new("/nowhere/values.yaml")), &[]).unwrap_err();
    assert!(format!("{error:#}").contains("/nowhere/values.yaml"), "{error:#}");
}
