//! In Kthena the first rule that matches wins, with a gateway the most specific one: the order of rules as matches.
//!
//! Precedence of the Gateway API: an exact path, then the longest prefix, then the most headers, then the order in the
//! HTTPRoute. So where a later rule would win over an earlier one, the earlier rule also gets a match of what both
//! match, which is at least as specific as the later one and stands before it.

use std::collections::BTreeMap;

use controller_api::http_route::{HeaderMatchType, PathMatch, PathMatchType};

use super::expressions;
use super::matches::Conditions;

/// The most matches of one name.
pub(super) const MATCHES: usize = 64;

/// Matches in order, each with the number of its rule.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) matches: Vec<(usize, Conditions)>,
    /// What a person should know of a rule.
    pub(super) notes: BTreeMap<usize, String>,
}

impl Order {
    /// Adds a rule behind all that were added before.
    pub(super) fn add(&mut self, rule: usize, conditions: Conditions) {
        if let Some((first, _)) = self.matches.iter().find(|(_, earlier)| covers(earlier, &conditions)) {
            let note = format!("is never reached: rule {} goes first", first + 1);
            self.notes.insert(rule, note);
            return;
        }
        let before = self.matches.len();
        self.insert(rule, conditions);
        if self.matches.len() > MATCHES {
            self.matches.truncate(before);
            self.notes.insert(rule, "overlaps too many rules before it".to_owned());
        }
    }

    fn insert(&mut self, rule: usize, conditions: Conditions) {
        if self.matches.len() > MATCHES {
            return;
        }
        let earlier: Vec<(usize, Conditions)> =
            self.matches.iter().filter(|(other, _)| *other < rule).cloned().collect();
        if earlier.iter().any(|(_, earlier)| covers(earlier, &conditions)) {
            return;
        }
        for (first, other) in earlier {
            match (wins(&conditions, &other), both(&conditions, &other)) {
                (_, Both::Nothing) | (Wins::No, _) => {}
                (Wins::Yes, Both::Conditions(both)) => self.insert(first, both),
                (Wins::Yes, Both::Unknown) | (Wins::Unknown, _) => {
                    let note = format!("may be tried by the gateway in another order than rule {}", first + 1);
                    self.notes.entry(rule).or_insert(note);
                }
            }
        }
        if !self.matches.iter().any(|(other, found)| *other == rule && *found == conditions) {
            self.matches.push((rule, conditions));
        }
    }
}

/// Whether a gateway prefers one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wins {
    Yes,
    No,
    /// The Gateway API leaves it to the gateway.
    Unknown,
}

fn wins(one: &Conditions, other: &Conditions) -> Wins {
    let regex = |path: &PathMatch| path.r#type == PathMatchType::RegularExpression;
    if one.path != other.path && (regex(&one.path) || regex(&other.path)) {
        return Wins::Unknown;
    }
    let rank = |conditions: &Conditions| {
        let PathMatch { r#type, value } = &conditions.path;
        (*r#type == PathMatchType::Exact, value.len(), conditions.headers.len())
    };
    if rank(one) > rank(other) { Wins::Yes } else { Wins::No }
}

/// Whether every request that meets `narrow` meets `wide`.
fn covers(wide: &Conditions, narrow: &Conditions) -> bool {
    let path = wide.path == narrow.path
        || match (wide.path.r#type, narrow.path.r#type) {
            (PathMatchType::PathPrefix, PathMatchType::RegularExpression) => wide.path.value == "/",
            (PathMatchType::PathPrefix, _) => is_below(&narrow.path.value, &wide.path.value),
            (PathMatchType::RegularExpression, PathMatchType::Exact) => {
                expressions::matches(&wide.path.value, &narrow.path.value)
            }
            _ => false,
        };
    let header = |(name, wide): (&String, &(HeaderMatchType, String))| {
        narrow.headers.get(name).is_some_and(|narrow| {
            wide == narrow
                || wide.0 == HeaderMatchType::RegularExpression
                    && narrow.0 == HeaderMatchType::Exact
                    && expressions::matches(&wide.1, &narrow.1)
        })
    };
    path && wide.headers.iter().all(header)
}

/// What meets two.
#[derive(Debug)]
enum Both {
    Nothing,
    Conditions(Conditions),
    /// It cannot be written as one match.
    Unknown,
}

fn both(one: &Conditions, other: &Conditions) -> Both {
    let mut path = Some(one.path.clone());
    if one.path != other.path {
        path = match path_of_both(&one.path, &other.path) {
            Ok(path) => path,
            Err(Disjoint) => return Both::Nothing,
        };
    }
    let mut headers = Some(one.headers.clone());
    for (name, theirs) in &other.headers {
        let Some(ours) = one.headers.get(name) else {
            headers = headers.map(|mut all| {
                all.insert(name.clone(), theirs.clone());
                all
            });
            continue;
        };
        let regex = HeaderMatchType::RegularExpression;
        let narrower = match (ours, theirs) {
            (ours, theirs) if ours == theirs => continue,
            ((HeaderMatchType::Exact, value), (kind, expression)) if *kind == regex => {
                Some((ours, expressions::matches(expression, value)))
            }
            ((kind, expression), (HeaderMatchType::Exact, value)) if *kind == regex => {
                Some((theirs, expressions::matches(expression, value)))
            }
            ((HeaderMatchType::Exact, _), _) => return Both::Nothing,
            _ => None,
        };
        headers = match narrower {
            Some((_, false)) => return Both::Nothing,
            Some((narrower, true)) => headers.map(|mut all| {
                all.insert(name.clone(), narrower.clone());
                all
            }),
            None => None,
        };
    }
    match (path, headers) {
        (Some(path), Some(headers)) => Both::Conditions(Conditions { path, headers }),
        _ => Both::Unknown,
    }
}

/// No path is both.
struct Disjoint;

/// The narrower of two different paths; nothing if it cannot be written.
fn path_of_both(one: &PathMatch, other: &PathMatch) -> Result<Option<PathMatch>, Disjoint> {
    use PathMatchType::{Exact, PathPrefix, RegularExpression};
    let narrow = |path: &PathMatch, wide: bool| if wide { Ok(Some(path.clone())) } else { Err(Disjoint) };
    match (one.r#type, other.r#type) {
        (Exact, Exact) => Err(Disjoint),
        (RegularExpression, RegularExpression) => Ok(None),
        (Exact, PathPrefix) => narrow(one, is_below(&one.value, &other.value)),
        (PathPrefix, Exact) => narrow(other, is_below(&other.value, &one.value)),
        (Exact, RegularExpression) => narrow(one, expressions::matches(&other.value, &one.value)),
        (RegularExpression, Exact) => narrow(other, expressions::matches(&one.value, &other.value)),
        (PathPrefix, RegularExpression) => Ok((one.value == "/").then(|| other.clone())),
        (RegularExpression, PathPrefix) => Ok((other.value == "/").then(|| one.clone())),
        (PathPrefix, PathPrefix) if is_below(&one.value, &other.value) => Ok(Some(one.clone())),
        (PathPrefix, PathPrefix) => narrow(other, is_below(&other.value, &one.value)),
    }
}

/// Whether a path begins with the segments of a prefix.
fn is_below(path: &str, prefix: &str) -> bool {
    prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
