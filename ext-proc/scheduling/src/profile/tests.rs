#![expect(clippy::needless_pass_by_value, reason = "json! makes values")]

use serde_json::json;

use super::*;

fn error(value: Value) -> String {
    Profile::from_value(&value).unwrap_err().to_string()
}

fn with_args(name: &str, args: Value) -> Value {
    json!({"scheduler": {"pluginConfig": [{"name": name, "args": args}]}})
}

fn with_score(enabled: Value) -> Value {
    json!({"scheduler": {"plugins": {"Score": {"enabled": enabled}}}})
}

#[test]
fn the_default_is_that_of_the_chart() {
    for value in [Value::Null, json!({}), json!({"scheduler": null}), json!({"scheduler": {"plugins": {}}})] {
        let profile = Profile::from_value(&value).unwrap();
        assert_eq!(profile.filter_names().collect::<Vec<_>>(), ["least-request"]);
        let weights: Vec<_> = profile.scorer_weights().collect();
        assert_eq!(
            weights,
            [("least-request", 1.0), ("gpu-usage", 1.0), ("least-latency", 1.0), ("prefix-cache", 1.0)]
        );
        let cache = profile.prefix_cache().unwrap();
        assert_eq!((cache.block_bytes(), cache.max_blocks(), cache.capacity()), (64, 128, 50_000));
    }
    assert_eq!(Profile::default().scorer_weights().count(), 4);
}

#[test]
fn the_charts_own_configuration_loads() {
    let profile = Profile::from_value(&json!({
        "scheduler": {
            "pluginConfig": [
                {"name": "least-request", "args": {"maxWaitingRequests": 10}},
                {"name": "least-latency", "args": {"TTFTTPOTWeightFactor": 0.5}},
                {"name": "prefix-cache", "args": {"blockSizeToHash": 32, "maxBlocksToMatch": 750, "maxHashCacheSize": 50000, "topKMatches": 5}},
                {"name": "kvcache-aware", "args": {"blockSizeToHash": 128, "maxBlocksToMatch": 128}}
            ],
            "plugins": {
                "Filter": {"enabled": ["least-request"], "disabled": ["lora-affinity"]},
                "Score": {"enabled": [{"name": "least-request", "weight": 2}, {"name": "prefix-cache", "weight": 0.5}], "disabled": null}
            }
        },
        "auth": {"issuer": "x"}
    }))
    .unwrap();
    assert_eq!(profile.scorer_weights().collect::<Vec<_>>(), [("least-request", 2.0), ("prefix-cache", 0.5)]);
    assert_eq!(profile.prefix_cache().unwrap().max_blocks(), 750);
    assert_eq!(profile.notes().len(), 1, "{:?}", profile.notes());
    assert!(!profile.uses_kv_events(), "its arguments alone do not enable kvcache-aware");
}

#[test]
fn unknown_names_are_errors_with_place_and_suggestion() {
    let cases = [
        (
            with_score(json!([{"name": "least-request"}, {"name": "prefix-cashe"}])),
            "scheduler.plugins.Score.enabled[1]: unknown score plugin `prefix-cashe`, did you mean `prefix-cache`?",
        ),
        (
            json!({"scheduler": {"plugins": {"Filter": {"enabled": ["gpu-usage"]}}}}),
            "scheduler.plugins.Filter.enabled[0]: unknown filter plugin `gpu-usage`",
        ),
        (
            with_args("lora-afinity", json!({})),
            "scheduler.pluginConfig[0].name: unknown filter or score plugin `lora-afinity`, did you mean `lora-affinity`?",
        ),
        (json!({"schedular": {}}), "configuration: unknown key `schedular`, did you mean `scheduler`?"),
        (
            json!({"scheduler": {"plugins": {"filter": {}}}}),
            "scheduler.plugins: unknown key `filter`, did you mean `Filter`?",
        ),
        (
            with_args("prefix-cache", json!({"blockSize": 64})),
            "scheduler.pluginConfig[0].args: unknown key `blockSize`, did you mean `blockSizeToHash`?",
        ),
        (
            with_args("kvcache-aware", json!({"maxBlocksToMatc": 64})),
            "scheduler.pluginConfig[0].args: unknown key `maxBlocksToMatc`, did you mean `maxBlocksToMatch`?",
        ),
    ];
    for (value, expected) in cases {
        assert_eq!(error(value), expected);
    }
}

#[test]
fn values_that_make_no_sense_are_errors() {
    let cases = [
        (with_score(json!([{"name": "gpu-usage", "weight": -1}])), "Score.enabled[0].weight: must be a number"),
        (with_score(json!([{"name": "gpu-usage", "weight": null}])), "Score.enabled[0].weight: must be a number"),
        (with_score(json!([{"name": "gpu-usage"}, {"name": "gpu-usage"}])), "`gpu-usage` is listed twice"),
        (with_score(json!("gpu-usage")), "Score.enabled: must be a list"),
        (with_args("least-request", json!({"maxWaitingRequests": 0})), "maxWaitingRequests must be at least 1"),
        (with_args("least-request", json!({"maxWaitingRequests": "10"})), "pluginConfig[0].args: invalid type"),
        (with_args("least-latency", json!({"TTFTTPOTWeightFactor": 1.5})), "must be within 0..=1"),
        (with_args("prefix-cache", json!({"maxBlocksToMatch": 0})), "maxBlocksToMatch must be at least 1"),
        (with_args("prefix-cache", json!({"maxBlocksToMatch": 100_000})), "maxBlocksToMatch must be at most 65536"),
        (with_args("gpu-usage", json!([])), "pluginConfig[0].args: must be an object"),
    ];
    for (value, expected) in cases {
        let error = error(value);
        assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
    }
}

#[test]
fn a_plugin_listed_without_arguments_has_its_defaults() {
    for args in [json!({}), Value::Null] {
        let profile = Profile::from_value(&with_args("prefix-cache", args)).unwrap();
        assert_eq!(profile.prefix_cache().unwrap().max_blocks(), 128);
    }
}

#[test]
fn random_beside_others_is_dropped_and_alone_it_stays() {
    let both = Profile::from_value(&with_score(json!([{"name": "random"}, {"name": "gpu-usage"}]))).unwrap();
    assert_eq!(both.scorer_weights().collect::<Vec<_>>(), [("gpu-usage", 1.0)]);
    assert_eq!(both.notes().len(), 1);
    let alone = Profile::from_value(&with_score(json!([{"name": "random", "weight": 3}]))).unwrap();
    assert_eq!(alone.scorer_weights().collect::<Vec<_>>(), [("random", 3.0)]);
    assert!(alone.prefix_cache().is_none());
}

#[test]
fn an_empty_list_means_none() {
    let profile = Profile::from_value(&json!({"scheduler": {"plugins": {"Filter": {"enabled": []}}}})).unwrap();
    assert_eq!((profile.filter_names().count(), profile.scorer_weights().count()), (0, 4));
}

fn names(profile: &Profile) -> (Vec<&'static str>, Vec<&'static str>) {
    (profile.filter_names().collect(), profile.scorer_weights().map(|(name, _)| name).collect())
}

#[test]
fn without_a_word_decode_goes_by_load_and_prefill_by_cache_and_load() {
    let profile = Profile::default();
    let pairs = profile.pairs().unwrap();
    assert_eq!(names(&pairs.decode), (vec!["least-request"], vec!["least-request", "gpu-usage", "least-latency"]));
    assert_eq!(names(&pairs.prefill), (vec!["least-request"], vec!["prefix-cache", "least-request"]));
    let rules = &pairs.rules;
    assert_eq!((rules.min_prompt_tokens, rules.min_uncached_tokens, rules.prefill_retries), (0, 256, 2));
    assert_eq!(rules.when_no_prefill, WhenNoPrefill::DecodeAlone);
}

#[test]
fn scorers_that_are_named_win_over_a_roles_defaults_and_arguments_are_inherited() {
    let mut value = with_args("prefix-cache", json!({"blockSizeToHash": 32}));
    value["scheduler"]["plugins"] = json!({
        "Filter": {"enabled": ["lora-affinity"]},
        "Score": {"enabled": [{"name": "prefix-cache"}]}
    });
    value["disaggregation"] = json!({"minPromptTokens": 9, "whenNoPrefill": "refuse", "prefill": {
        "pluginConfig": [{"name": "least-latency", "args": {"TTFTTPOTWeightFactor": 1}}],
        "plugins": {"Score": {"enabled": [{"name": "prefix-cache", "weight": 3}, {"name": "least-latency"}]}}
    }});
    let profile = Profile::from_value(&value).unwrap();
    let pairs = profile.pairs().unwrap();
    assert_eq!(names(&pairs.decode), (vec!["lora-affinity"], vec!["prefix-cache"]), "the scheduler's");
    assert_eq!(names(&pairs.prefill), (vec!["lora-affinity"], vec!["prefix-cache", "least-latency"]));
    assert_eq!(pairs.prefix_cache().unwrap().block_bytes(), 32);
    assert_eq!((pairs.rules.min_prompt_tokens, pairs.rules.when_no_prefill), (9, WhenNoPrefill::Refuse));
    value["disaggregation"]["decode"] =
        json!({"plugins": {"Filter": {"enabled": []}, "Score": {"enabled": [{"name": "random"}]}}});
    let profile = Profile::from_value(&value).unwrap();
    assert_eq!(names(&profile.pairs().unwrap().decode), (vec![], vec!["random"]), "decode's own");
    assert_eq!(names(&profile), (vec!["lora-affinity"], vec!["prefix-cache"]), "the others are as they were");
}

#[test]
fn what_is_wrong_with_disaggregation_is_said_with_its_place() {
    let told = |disaggregation: Value| error(json!({ "disaggregation": disaggregation }));
    let retries = told(json!({"prefilRetries": 1}));
    assert_eq!(retries, "disaggregation: unknown key `prefilRetries`, did you mean `prefillRetries`?");
    assert_eq!(told(json!({"prefillRetries": 5})), "disaggregation: prefillRetries must be at most 4");
    assert!(told(json!({"whenNoPrefill": "decode"})).contains("`decode-alone` or `refuse`"));
    assert!(told(json!({"minUncachedTokens": -1})).starts_with("disaggregation: "));
    let scorer = told(json!({"prefill": {"plugins": {"Score": {"enabled": [{"name": "prefix-cash"}]}}}}));
    assert_eq!(
        scorer,
        "disaggregation.prefill.plugins.Score.enabled[0]: unknown score plugin `prefix-cash`, did you mean `prefix-cache`?"
    );
    let args = told(json!({"decode": {"pluginConfig": [{"name": "least-request", "args": {"x": 1}}]}}));
    assert!(args.starts_with("disaggregation.decode.pluginConfig[0].args: unknown key `x`"), "{args}");
}

#[test]
fn kvcache_aware_brings_the_approximate_measure_that_takes_over_where_it_has_none() {
    let scores = json!([{"name": "kvcache-aware"}]);
    let profile = Profile::from_value(&json!({
        "scheduler": {
            "pluginConfig": [{"name": "prefix-cache", "args": {"blockSizeToHash": 32}}],
            "plugins": {"Score": {"enabled": scores}}
        }
    }))
    .unwrap();
    assert_eq!(profile.prefix_cache().unwrap().block_bytes(), 32, "with its own arguments");
    assert!(profile.uses_kv_events());
    assert!(!Profile::default().uses_kv_events());
    let for_prefill_only = json!({"disaggregation": {"prefill": {"plugins": {"Score": {"enabled": scores}}}}});
    assert!(Profile::from_value(&for_prefill_only).unwrap().uses_kv_events());
}
