//! One rule of a ModelRoute as a gateway matches it.

use std::collections::BTreeMap;

use controller_api::http_route::{HeaderMatch, HeaderMatchType, Match, PathMatch, PathMatchType};
use controller_api::v1alpha1::model_route::{Rule, StringMatch};

use super::expressions::{self, Condition};

/// The header that carries the request's `model` when routes are chosen: the body-to-header step of the Gateway API
/// Inference Extension sets it.
pub(super) const MODEL_HEADER: &str = "x-gateway-model-name";

/// Conditions on headers in one match, beside that on [`MODEL_HEADER`].
const HEADERS: usize = 15;
/// Characters of a header's value, and of a path.
const HEADER_LENGTH: usize = 4096;
const PATH_LENGTH: usize = 1024;

/// The paths that engines serve. A prefix that tells none of them apart from its segments is a prefix of segments.
const PATHS: [&str; 14] = [
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/chat/completions",
    "/v1/classify",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/messages",
    "/v1/models",
    "/v1/pooling",
    "/v1/rerank",
    "/v1/responses",
    "/v1/score",
];

/// All must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conditions {
    pub(super) path: PathMatch,
    /// By name, in lower case.
    pub(super) headers: BTreeMap<String, (HeaderMatchType, String)>,
}

/// What a gateway can do with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matchable {
    /// All of it.
    Whole(Conditions),
    /// No request meets it: why.
    Never(String),
    /// Not enough of it: why.
    Not(String),
}

impl Conditions {
    /// As a match of requests for the model of this name.
    pub(super) fn for_model(&self, model: &str) -> Match {
        let header = |(name, (r#type, value)): (&String, &(HeaderMatchType, String))| HeaderMatch {
            r#type: *r#type,
            name: name.clone(),
            value: value.clone(),
        };
        let model =
            HeaderMatch { r#type: HeaderMatchType::Exact, name: MODEL_HEADER.to_owned(), value: model.to_owned() };
        let headers = std::iter::once(model).chain(self.headers.iter().map(header));
        Match { path: Some(self.path.clone()), headers: headers.collect() }
    }
}

/// What a gateway can do with a rule for requests that name `model`.
pub(super) fn matchable(rule: &Rule, model: &str) -> Matchable {
    let Some(conditions) = &rule.model_match else {
        return Matchable::Whole(Conditions { path: path_prefix("/"), headers: BTreeMap::new() });
    };
    if conditions.body.as_ref().and_then(|body| body.model.as_deref()).is_some_and(|wanted| wanted != model) {
        return Matchable::Never("its body.model is not a name of the ModelRoute".to_owned());
    }
    let path = match path(conditions.uri.as_ref()) {
        Ok(path) => path,
        Err(not) => return not,
    };
    let mut headers = BTreeMap::new();
    for (name, wanted) in &conditions.headers {
        let (kind, value) = match header(name, wanted) {
            Ok(None) => continue,
            Ok(Some(header)) => header,
            Err(not) => return not,
        };
        if headers.insert(name.to_ascii_lowercase(), (kind, value)).is_some() {
            return Matchable::Not(format!("the header {name} has two conditions"));
        }
    }
    if headers.len() > HEADERS {
        return Matchable::Not(format!("it has {} headers, and a gateway takes {HEADERS}", headers.len()));
    }
    Matchable::Whole(Conditions { path, headers })
}

/// The condition on a header; nothing if every request meets it.
fn header(name: &str, wanted: &StringMatch) -> Result<Option<(HeaderMatchType, String)>, Matchable> {
    let absent = || Matchable::Not(format!("the header {name} may be absent, which a gateway cannot match"));
    let regex = HeaderMatchType::RegularExpression;
    let (kind, value) = match expressions::condition(wanted) {
        Condition::Any => return Ok(None),
        Condition::Never(why) => return Err(Matchable::Never(why)),
        Condition::Exact("") | Condition::RegexOrEmpty(_) => return Err(absent()),
        Condition::Exact(exact) => (HeaderMatchType::Exact, exact.to_owned()),
        Condition::Prefix(prefix) => (regex, expressions::begins_with(prefix)),
        Condition::Regex(expression) => (regex, expressions::contains(expression)),
    };
    let is_name = |letter: u8| letter.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&letter);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(is_name) {
        return Err(Matchable::Not(format!("{name:?} is not the name of a header")));
    }
    if name.eq_ignore_ascii_case(MODEL_HEADER) {
        return Err(Matchable::Not(format!("the header {MODEL_HEADER} is the gateway's own")));
    }
    if value.chars().count() > HEADER_LENGTH {
        return Err(Matchable::Not(format!("the value of the header {name} is longer than a gateway takes")));
    }
    Ok(Some((kind, value)))
}

fn path(wanted: Option<&StringMatch>) -> Result<PathMatch, Matchable> {
    let Some(wanted) = wanted else { return Ok(path_prefix("/")) };
    let regex = |value| PathMatch { r#type: PathMatchType::RegularExpression, value };
    let no_path = |text: &str| Matchable::Never(format!("no path begins with {text:?}: begin it with /"));
    let path = match expressions::condition(wanted) {
        Condition::Any => path_prefix("/"),
        Condition::Never(why) => return Err(Matchable::Never(why)),
        Condition::Exact(text) | Condition::Prefix(text) if !text.starts_with('/') => return Err(no_path(text)),
        Condition::Exact(exact) if is_plain(exact) => {
            PathMatch { r#type: PathMatchType::Exact, value: exact.to_owned() }
        }
        Condition::Exact(exact) => regex(expressions::is(exact)),
        Condition::Prefix(prefix) if is_plain(prefix) && ends_with_a_segment(prefix) => path_prefix(prefix),
        Condition::Prefix(prefix) => regex(expressions::begins_with(prefix)),
        // No path is empty.
        Condition::Regex(expression) | Condition::RegexOrEmpty(expression) => regex(expressions::contains(expression)),
    };
    if path.value.chars().count() > PATH_LENGTH {
        return Err(Matchable::Not("its uri is longer than a gateway takes".to_owned()));
    }
    Ok(path)
}

/// A prefix of segments.
fn path_prefix(prefix: &str) -> PathMatch {
    let value = if prefix == "/" { prefix } else { prefix.trim_end_matches('/') };
    PathMatch { r#type: PathMatchType::PathPrefix, value: value.to_owned() }
}

/// Whether all paths that begin so, as strings, do so as segments.
fn ends_with_a_segment(prefix: &str) -> bool {
    let rest = |path: &'static str| path.strip_prefix(prefix);
    prefix.ends_with('/') || PATHS.into_iter().filter_map(rest).all(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the API server takes it for a path; any other is matched by an expression.
fn is_plain(path: &str) -> bool {
    let letter = |letter: u8| letter.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&letter);
    path.bytes().all(letter) && !path.contains("//") && path.split('/').all(|segment| segment != "." && segment != "..")
}
