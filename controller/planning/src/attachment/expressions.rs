//! Kthena's string conditions as expressions that a gateway understands.
//!
//! Kthena's expressions match anywhere in the string (Go's `MatchString`), Envoy's RE2 the whole of it; other gateways
//! search. What is made here means the same to all of them.

use controller_api::v1alpha1::model_route::StringMatch;

/// A condition on a string that may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition<'a> {
    /// Always true.
    Any,
    /// Never true: why.
    Never(String),
    /// The whole string.
    Exact(&'a str),
    /// Its beginning, which is not empty.
    Prefix(&'a str),
    /// An expression that matches anywhere, and not the empty string.
    Regex(&'a str),
    /// An expression that matches the empty string too, and not every string.
    RegexOrEmpty(&'a str),
}

/// What a condition says. `exact` goes before `prefix`, `prefix` before `regex`.
pub(super) fn condition(condition: &StringMatch) -> Condition<'_> {
    let StringMatch { exact, prefix, regex } = condition;
    match (exact, prefix, regex) {
        (Some(exact), _, _) => Condition::Exact(exact),
        (None, Some(prefix), _) if prefix.is_empty() => Condition::Any,
        (None, Some(prefix), _) => Condition::Prefix(prefix),
        (None, None, Some(regex)) if matches!(regex.as_str(), "" | "^" | "$" | ".*" | "^.*" | ".*$" | "^.*$") => {
            Condition::Any
        }
        (None, None, Some(regex)) => match regex::Regex::new(regex) {
            Ok(compiled) if compiled.is_match("") => Condition::RegexOrEmpty(regex),
            Ok(_) => Condition::Regex(regex),
            Err(_) => Condition::Never(format!("the expression {regex:?} is not one")),
        },
        (None, None, None) => Condition::Any,
    }
}

/// A string that begins so.
pub(super) fn begins_with(prefix: &str) -> String {
    format!("^{}.*", regex::escape(prefix))
}

/// A string that is so.
pub(super) fn is(exact: &str) -> String {
    format!("^{}$", regex::escape(exact))
}

/// A string in which the expression matches somewhere.
pub(super) fn contains(regex: &str) -> String {
    format!(".*(?:{regex}).*")
}

/// Whether a string as a whole is matched by an expression that was made here.
pub(super) fn matches(expression: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{expression})$")).is_ok_and(|regex| regex.is_match(text))
}
