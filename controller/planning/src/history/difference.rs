//! What changed between two revisions, field by field, in the words of the manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use controller_api::v1alpha1::model_serving::Role;
use serde_json::{Map, Value};

use crate::revision::{plain, write_sorted};

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The role.
    pub role: String,
    /// The field within the role: `entryTemplate.spec.containers[engine].image`; empty for the role itself.
    pub path: String,
    /// Its value before, as JSON or as a bare word; none if there was none.
    pub before: Option<String>,
    /// Its value after.
    pub after: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, path, before, after } = self;
        let field = if path.is_empty() { format!("role {role}") } else { format!("role {role}: {path}") };
        match (before, after) {
            (Some(before), Some(after)) => write!(f, "{field}: {before} -> {after}"),
            (None, Some(after)) if path.is_empty() => write!(f, "{field} added: {after}"),
            (None, Some(after)) => write!(f, "{field}: added {after}"),
            (Some(_), None) if path.is_empty() => write!(f, "{field} removed"),
            (Some(before), None) => write!(f, "{field}: removed {before}"),
            (None, None) => f.write_str(&field),
        }
    }
}

/// Fields that name an item of a list, best first.
const NAMES: [&str; 4] = ["mountPath", "name", "containerPort", "key"];

/// What `after` has otherwise than `before`, their counts aside; by role, in the order of `after`.
pub fn difference(before: &[Role], after: &[Role]) -> Vec<Change> {
    let mut changes = Vec::new();
    let find = |roles: &[Role], name: &str| roles.iter().find(|role| role.name == name).map(plain);
    let gone = before.iter().filter(|role| after.iter().all(|after| after.name != role.name));
    for role in after.iter().chain(gone) {
        let (before, after) = (find(before, &role.name), find(after, &role.name));
        let mut found = Vec::new();
        compare("", before.as_ref(), after.as_ref(), &mut found);
        changes.extend(found.into_iter().map(|(path, before, after)| Change {
            role: role.name.clone(),
            path,
            before,
            after,
        }));
    }
    if changes.is_empty() && before.len() == after.len() {
        let order = |roles: &[Role]| roles.iter().map(|role| role.name.as_str()).collect::<Vec<_>>().join(", ");
        if order(before) != order(after) {
            let role = after.iter().map(|role| role.name.clone()).next().unwrap_or_default();
            let path = "(order of the roles)".to_owned();
            changes.push(Change { role, path, before: Some(order(before)), after: Some(order(after)) });
        }
    }
    changes
}

type Found = (String, Option<String>, Option<String>);

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Found>) {
    match (before, after) {
        (Some(before), Some(after)) if before == after => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => compare_fields(path, before, after, found),
        (Some(Value::Array(before)), Some(Value::Array(after))) => match (by_name(before), by_name(after)) {
            (Some(before_items), Some(after_items)) => {
                let count = found.len();
                let names: BTreeSet<&String> = before_items.keys().chain(after_items.keys()).collect();
                for name in names {
                    let path = format!("{path}[{name}]");
                    compare(&path, before_items.get(name).copied(), after_items.get(name).copied(), found);
                }
                if found.len() == count {
                    found.push((format!("{path} (order)"), Some(order(before)), Some(order(after))));
                }
            }
            _ => found.push((path.to_owned(), Some(text(&before.clone().into())), Some(text(&after.clone().into())))),
        },
        (before, after) => found.push((path.to_owned(), before.map(text), after.map(text))),
    }
}

fn compare_fields(path: &str, before: &Map<String, Value>, after: &Map<String, Value>, found: &mut Vec<Found>) {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        // A key of a label or an annotation may have dots: it is set apart.
        let step = if name.contains(['.', '/']) { format!("[{name}]") } else { format!(".{name}") };
        let path = if path.is_empty() { step.trim_start_matches('.').to_owned() } else { format!("{path}{step}") };
        compare(&path, before.get(name), after.get(name), found);
    }
}

/// The items of a list by the name that each of them has for itself, if they have one.
fn by_name(items: &[Value]) -> Option<BTreeMap<String, &Value>> {
    NAMES.iter().find_map(|field| {
        let named: BTreeMap<String, &Value> =
            items.iter().map(|item| Some((text(item.get(field)?), item))).collect::<Option<_>>()?;
        (named.len() == items.len()).then_some(named)
    })
}

fn order(items: &[Value]) -> String {
    let names: Vec<String> =
        items.iter().filter_map(|item| NAMES.iter().find_map(|field| item.get(field)).map(text)).collect();
    names.join(", ")
}

/// A word as it is; anything else as JSON.
fn text(value: &Value) -> String {
    match value {
        Value::String(word) if !word.is_empty() => word.clone(),
        other => {
            let mut text = String::new();
            write_sorted(other, &mut text);
            text
        }
    }
}
