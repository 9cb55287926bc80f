//! One text for all ways to write the same roles.
//!
//! The roles of a manifest, of a revision that we wrote and of one that Kthena wrote (Go leaves empty fields away, and
//! writes `{}` for some of them; it shortens quantities) must compare equal when they mean the same. The text has
//! sorted keys and no field that says what its absence says, so it depends neither on the layout of a struct nor on
//! the version of an API type.

use controller_api::v1alpha1::model_serving::Role;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::quantity::Amount;

/// Fields of a role that say how many there are and how they change, not what they are.
const SCALING: [&str; 4] = ["replicas", "maxUnavailable", "partition", "maxSurge"];

/// Maps from words of the user to words of the user: an empty word means something there.
const WORDS: [&str; 4] = ["labels", "annotations", "matchLabels", "nodeSelector"];

/// Objects that mean nothing when they are empty. Elsewhere `{}` differs from nothing: an empty `labelSelector`
/// selects everything, an absent one selects nothing.
const HOLLOW: [&str; 9] =
    ["metadata", "resources", "limits", "requests", "overhead", "labels", "annotations", "matchLabels", "nodeSelector"];

/// Flags that are off when they are absent.
const OFF: [&str; 7] = ["hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "readOnly"];

/// Numbers of probes for which 0 means the default, as absence does.
const DEFAULTED: [&str; 5] =
    ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];

/// Maps from a resource to a quantity.
const AMOUNTS: [&str; 3] = ["limits", "requests", "overhead"];

/// The roles without their scaling, as canonical JSON. Empty for roles that cannot be said in JSON, of which there
/// are none.
pub(super) fn roles(roles: &[Role]) -> String {
    let mut text = String::from("[");
    for (position, role) in roles.iter().enumerate() {
        if position > 0 {
            text.push(',');
        }
        text.push_str(&self::role(role));
    }
    text.push(']');
    text
}

fn role(role: &Role) -> String {
    let mut text = String::new();
    write(&plain(role), &mut text);
    text
}

/// A role without its scaling and without what means nothing.
pub(crate) fn plain(role: &Role) -> Value {
    let fields = match serde_json::to_value(role) {
        Ok(Value::Object(mut fields)) => {
            fields.retain(|key, _| !SCALING.contains(&key.as_str()));
            fields
        }
        _ => Map::new(),
    };
    normal("", "", Value::Object(fields)).unwrap_or_default()
}

/// A short name for `text`, of letters and digits that form no word: the value of a label, the end of a name.
pub(super) fn name_of(text: &str) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = xxh3_64(text.as_bytes());
    let mut name = String::with_capacity(10);
    for _ in 0..10 {
        let letter = usize::try_from(rest % 27).ok().and_then(|at| LETTERS.get(at)).copied().unwrap_or(b'b');
        name.push(char::from(letter));
        rest /= 27;
    }
    name
}

/// The label `role-template-hash`: equal as long as the role's pods are built alike.
pub fn role_template_hash(role: &Role) -> String {
    name_of(&self::role(role))
}

/// `value` without what means nothing; nothing if it all means nothing.
fn normal(parent: &str, key: &str, value: Value) -> Option<Value> {
    let of_the_user = WORDS.contains(&parent);
    match value {
        Value::Null => None,
        Value::Bool(false) if OFF.contains(&key) && !of_the_user => None,
        Value::Number(number) if DEFAULTED.contains(&key) && number.as_i64() == Some(0) => None,
        Value::String(text) if of_the_user => Some(Value::String(text)),
        Value::String(text) if AMOUNTS.contains(&parent) || key == "sizeLimit" || key == "divisor" => {
            match text.parse::<Amount>() {
                Ok(amount) if amount.is_zero() && key == "divisor" => None,
                Ok(amount) => Some(Value::String(amount.to_string())),
                Err(_) => Some(Value::String(text)),
            }
        }
        // An empty class is not the default class.
        Value::String(text) if text.is_empty() && key != "storageClassName" => None,
        Value::String(text) if key == "protocol" && parent == "ports" && text == "TCP" => None,
        Value::Array(items) if items.is_empty() => None,
        // An item keeps its place even if it says nothing; its fields have the list's name as their parent.
        Value::Array(items) => {
            Some(Value::Array(items.into_iter().map(|item| normal(parent, key, item).unwrap_or(Value::Null)).collect()))
        }
        Value::Object(fields) => {
            let fields: Map<String, Value> = fields
                .into_iter()
                .filter_map(|(name, value)| {
                    let value = normal(key, &name, value)?;
                    Some((name, value))
                })
                .collect();
            (!(fields.is_empty() && HOLLOW.contains(&key) && !of_the_user)).then_some(Value::Object(fields))
        }
        other => Some(other),
    }
}

/// JSON with sorted keys and no spaces, whatever order the map keeps.
pub(crate) fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (position, (name, value)) in sorted.into_iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        leaf => text.push_str(&leaf.to_string()),
    }
}
