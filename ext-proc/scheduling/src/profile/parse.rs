//! From a configuration's value to a [`Profile`], keeping the path for errors.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::filters::{self, Filter};
use crate::profile::pairs::{PairRules, Pairs};
use crate::profile::{ArgsError, LARGEST_WEIGHT, Profile, ProfileError};
use crate::scorers::{self, Scorer};

/// The chart's filters and scorers.
const DEFAULT_FILTERS: &[&str] = &["least-request"];
const DEFAULT_SCORERS: &[&str] = &["least-request", "gpu-usage", "least-latency", "prefix-cache"];
/// Decode takes what prefill has computed: load alone counts.
const DECODE_SCORERS: &[&str] = &["least-request", "gpu-usage", "least-latency"];
/// Prefill is quick where the prompt's beginning is, unless others wait there.
const PREFILL_SCORERS: &[&str] = &["prefix-cache", "least-request"];

/// A name, its weight, and where it stands.
type Enabled = (String, f32, String);
/// Arguments by plugin, and where they stand.
type Args<'a> = BTreeMap<String, (&'a Value, String)>;

/// A `scheduler`, or the part of a role: what it names. What it does not name is another's to say.
#[derive(Clone, Default)]
struct Section<'a> {
    args: Args<'a>,
    filters: Option<Vec<Enabled>>,
    scorers: Option<Vec<Enabled>>,
}

pub(super) fn profile(value: &Value) -> Result<Profile, ProfileError> {
    let root = object(value, "configuration", &["scheduler", "disaggregation", "auth"])?;
    let mut notes = Vec::new();
    if !get(root, "auth").is_null() {
        notes.push("auth is ignored: the gateway authenticates".to_owned());
    }
    let scheduler = section(get(root, "scheduler"), "scheduler", &mut notes)?;
    let pairs = pairs(get(root, "disaggregation"), &scheduler, &mut notes)?;
    Ok(Profile { pairs: Some(Box::new(pairs)), notes, ..build(scheduler, DEFAULT_SCORERS)? })
}

fn pairs(value: &Value, scheduler: &Section<'_>, notes: &mut Vec<String>) -> Result<Pairs, ProfileError> {
    const PATH: &str = "disaggregation";
    let known = ["minPromptTokens", "minUncachedTokens", "whenNoPrefill", "prefillRetries", "prefill", "decode"];
    let given = object(value, PATH, &known)?;
    let mut rules = given.cloned().unwrap_or_default();
    rules.retain(|key, _| key != "prefill" && key != "decode");
    let rules: PairRules = super::args(Some(&rules.into())).map_err(|error| in_args(error, PATH))?;
    rules.check().map_err(|problem| invalid(PATH, problem))?;
    let mut role = |name: &str, defaults: &[&str], inherited: Section<'_>| {
        let own = section(get(given, name), &format!("{PATH}.{name}"), notes)?;
        let mut args = inherited.args;
        args.extend(own.args);
        let (filters, scorers) = (own.filters.or(inherited.filters), own.scorers.or(inherited.scorers));
        build(Section { args, filters, scorers }, defaults)
    };
    let decode = role("decode", DECODE_SCORERS, scheduler.clone())?;
    let prefill = role("prefill", PREFILL_SCORERS, Section { scorers: None, ..scheduler.clone() })?;
    Ok(Pairs { decode, prefill, rules })
}

fn section<'a>(value: &'a Value, path: &str, notes: &mut Vec<String>) -> Result<Section<'a>, ProfileError> {
    let section = object(value, path, &["pluginConfig", "plugins"])?;
    let plugins_path = format!("{path}.plugins");
    let plugins = object(get(section, "plugins"), &plugins_path, &["Filter", "Score"])?;
    let args = plugin_config(get(section, "pluginConfig"), &format!("{path}.pluginConfig"))?;
    let filters = enabled(get(plugins, "Filter"), "Filter", &plugins_path)?;
    let scorers = scorers_of(get(plugins, "Score"), &plugins_path, notes)?;
    Ok(Section { args, filters, scorers })
}

/// The profile of a section; the default filters and these scorers where it names none.
fn build(section: Section<'_>, default_scorers: &[&str]) -> Result<Profile, ProfileError> {
    let Section { args, filters, scorers } = section;
    let mut profile = Profile::empty();
    for (name, _, path) in filters.unwrap_or_else(|| defaults(DEFAULT_FILTERS)) {
        let (name, filter) = filter(&name, &path, &args)?;
        profile.filters.push((name, filter.into()));
    }
    for (name, weight, path) in scorers.unwrap_or_else(|| defaults(default_scorers)) {
        let (name, scorer) = scorer(&name, &path, &args)?;
        profile.scorers.push((name, weight, scorer.into()));
        if name == "prefix-cache" {
            let (args, path) = args_of(&args, name);
            profile.prefix_cache = Some(super::args(args).map_err(|error| in_args(error, path))?);
        }
        if name == "kvcache-aware" {
            let (args, path) = args_of(&args, name);
            profile.kvcache_aware = Some(super::args(args).map_err(|error| in_args(error, path))?);
        }
    }
    if profile.kvcache_aware.is_some() && profile.prefix_cache.is_none() {
        // The approximate measure is hashed and learned too: it takes over where the exact one is missing.
        let (args, path) = args_of(&args, "prefix-cache");
        profile.prefix_cache = Some(super::args(args).map_err(|error| in_args(error, path))?);
    }
    Ok(profile)
}

fn defaults(names: &[&str]) -> Vec<Enabled> {
    names.iter().map(|name| ((*name).to_owned(), 1.0, String::new())).collect()
}

/// The listed scorers, without `random` where it is not alone.
fn scorers_of(value: &Value, plugins: &str, notes: &mut Vec<String>) -> Result<Option<Vec<Enabled>>, ProfileError> {
    let Some(mut scorers) = enabled(value, "Score", plugins)? else { return Ok(None) };
    if scorers.len() > 1 && scorers.iter().any(|(name, ..)| name == "random") {
        scorers.retain(|(name, ..)| name != "random");
        notes.push("the score plugin random is ignored beside others".to_owned());
    }
    Ok(Some(scorers))
}

fn plugin_config<'a>(value: &'a Value, path: &str) -> Result<Args<'a>, ProfileError> {
    let mut args = Args::new();
    for (index, entry) in list(value, path)?.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let entry = object(entry, &path, &["name", "args"])?;
        let name = string(get(entry, "name"), &format!("{path}.name"))?;
        let path = format!("{path}.args");
        let given = get(entry, "args");
        // Built here too, so that arguments of a plugin that is not enabled are checked as well.
        let built = filters::build(name, Some(given)).map(|it| it.map(drop));
        match built.or_else(|| scorers::build(name, Some(given)).map(|it| it.map(drop))) {
            Some(built) => built.map_err(|error| in_args(error, &path))?,
            None => return Err(unknown_plugin("filter or score", name, path.replace(".args", ".name"))),
        }
        if args.insert(name.to_owned(), (given, path.clone())).is_some() {
            return Err(invalid(&path, format!("`{name}` is configured twice")));
        }
    }
    Ok(args)
}

/// What a section of `plugins` enables; `None` when it says nothing.
fn enabled(value: &Value, section: &str, plugins: &str) -> Result<Option<Vec<Enabled>>, ProfileError> {
    let path = format!("{plugins}.{section}");
    let value = object(value, &path, &["enabled", "disabled"])?;
    let path = format!("{path}.enabled");
    if !value.is_some_and(|section| section.contains_key("enabled")) {
        return Ok(None);
    }
    let mut all: Vec<Enabled> = Vec::new();
    for (index, entry) in list(get(value, "enabled"), &path)?.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (name, weight) = if section == "Filter" {
            (string(entry, &path)?, 1.0)
        } else {
            let entry = object(entry, &path, &["name", "weight"])?;
            (string(get(entry, "name"), &format!("{path}.name"))?, weight(entry, &format!("{path}.weight"))?)
        };
        if all.iter().any(|(other, ..)| other == name) {
            return Err(invalid(&path, format!("`{name}` is listed twice")));
        }
        all.push((name.to_owned(), weight, path));
    }
    Ok(Some(all))
}

fn weight(entry: Option<&Map<String, Value>>, path: &str) -> Result<f32, ProfileError> {
    let Some(weight) = entry.and_then(|entry| entry.get("weight")) else { return Ok(1.0) };
    let allowed = |weight: &f64| (0.0..=LARGEST_WEIGHT).contains(weight);
    let weight = weight.as_f64().filter(allowed).map(|weight| weight as f32);
    weight.ok_or_else(|| invalid(path, format!("must be a number within 0..={LARGEST_WEIGHT}")))
}

fn filter(name: &str, path: &str, args: &Args<'_>) -> Result<(&'static str, Box<dyn Filter>), ProfileError> {
    let known = filters::NAMES.iter().find(|known| **known == name);
    let (given, args_path) = args_of(args, name);
    match known.zip(filters::build(name, given)) {
        Some((name, filter)) => Ok((name, filter.map_err(|error| in_args(error, args_path))?)),
        None => Err(unknown_plugin("filter", name, path.to_owned())),
    }
}

fn scorer(name: &str, path: &str, args: &Args<'_>) -> Result<(&'static str, Box<dyn Scorer>), ProfileError> {
    let known = scorers::NAMES.iter().find(|known| **known == name);
    let (given, args_path) = if filters::NAMES.contains(&name) { (None, "") } else { args_of(args, name) };
    match known.zip(scorers::build(name, given)) {
        Some((name, scorer)) => Ok((name, scorer.map_err(|error| in_args(error, args_path))?)),
        None => Err(unknown_plugin("score", name, path.to_owned())),
    }
}

fn args_of<'a>(args: &'a Args<'_>, name: &str) -> (Option<&'a Value>, &'a str) {
    args.get(name).map_or((None, ""), |(args, path)| (Some(args), path))
}

fn in_args(error: ArgsError, path: &str) -> ProfileError {
    match error {
        ArgsError::Value(problem) => invalid(path, problem),
        ArgsError::Key { key, known } => unknown_key(key, path, known.iter().map(String::as_str)),
    }
}

/// The object there; `None` when there is none. Keys must be among `known`.
fn object<'a>(value: &'a Value, path: &str, known: &[&str]) -> Result<Option<&'a Map<String, Value>>, ProfileError> {
    let object = match value {
        Value::Null => return Ok(None),
        Value::Object(object) => object,
        _ => return Err(invalid(path, "must be an object".to_owned())),
    };
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(unknown_key(key.clone(), path, known.iter().copied())),
        None => Ok(Some(object)),
    }
}

fn get<'a>(object: Option<&'a Map<String, Value>>, key: &str) -> &'a Value {
    object.and_then(|object| object.get(key)).unwrap_or(&Value::Null)
}

fn list<'a>(value: &'a Value, path: &str) -> Result<&'a [Value], ProfileError> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(list) => Ok(list),
        _ => Err(invalid(path, "must be a list".to_owned())),
    }
}

fn string<'a>(value: &'a Value, path: &str) -> Result<&'a str, ProfileError> {
    value.as_str().ok_or_else(|| invalid(path, "must be a plugin's name".to_owned()))
}

fn invalid(path: &str, problem: String) -> ProfileError {
    ProfileError::Invalid { path: path.to_owned(), problem }
}

fn unknown_plugin(kind: &'static str, name: &str, path: String) -> ProfileError {
    let names = match kind {
        "filter" => filters::NAMES.to_vec(),
        "score" => scorers::NAMES.to_vec(),
        _ => [filters::NAMES, scorers::NAMES].concat(),
    };
    ProfileError::UnknownPlugin { path, kind, name: name.to_owned(), did_you_mean: nearest(name, names.into_iter()) }
}

fn unknown_key<'a>(key: String, path: &str, known: impl Iterator<Item = &'a str>) -> ProfileError {
    let did_you_mean = nearest(&key, known);
    ProfileError::UnknownKey { path: path.to_owned(), key, did_you_mean }
}

/// The known name nearest to what was written, if it is near at all. Case does not count as distance.
fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let written = written.to_lowercase();
    known
        .map(|name| (strsim::jaro_winkler(&written, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, name)| name.to_owned())
}
