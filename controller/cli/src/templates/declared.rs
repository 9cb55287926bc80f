//! What a template says of itself: what it is for, and which values it takes.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest number that a manifest takes.
const LARGEST: i64 = i32::MAX as i64;

/// The first lines of a template.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) description: String,
    pub(super) values: Vec<Declared>,
}

/// A value that a template takes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Declared {
    /// By which it is set.
    pub(crate) name: String,
    /// Taken where it is not set; it says of which kind the value is.
    pub(crate) default: Value,
    /// The only texts that it may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) one_of: Vec<String>,
    /// Whether a text may be empty although the default is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
    /// What it means.
    pub(crate) about: String,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One line.
    Text,
    /// Whole, 1 or more.
    Number,
    /// `true` or `false`.
    Switch,
    /// Texts.
    List,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Text => "text",
            Self::Number => "number",
            Self::Switch => "true|false",
            Self::List => "list",
        })
    }
}

impl Declared {
    /// Of which kind it is.
    pub(crate) fn kind(&self) -> Kind {
        match &self.default {
            Value::Number(_) => Kind::Number,
            Value::Bool(_) => Kind::Switch,
            Value::Array(_) => Kind::List,
            _ => Kind::Text,
        }
    }

    /// Its kind, or the texts that it may be, for a person.
    pub(crate) fn choice(&self) -> String {
        if self.one_of.is_empty() { self.kind().to_string() } else { self.one_of.join("|") }
    }

    /// What a word of the command line says.
    pub(super) fn parse(&self, word: &str) -> Result<Value, String> {
        let value = match self.kind() {
            Kind::Text => Value::from(word),
            Kind::Number => word.parse::<i64>().map_or_else(|_| Value::from(word), Value::from),
            Kind::Switch => word.parse::<bool>().map_or_else(|_| Value::from(word), Value::from),
            Kind::List => word.split_whitespace().collect(),
        };
        self.check(&value).map(|()| value)
    }

    /// Whether it may be this.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let may_be_empty = self.optional || self.default == "";
        match (self.kind(), value) {
            (Kind::Text, Value::String(text)) if !self.one_of.is_empty() && !self.one_of.contains(text) => {
                Err(self.wrong(&format!("one of {}", self.one_of.join(", ")), value))
            }
            (Kind::Text, Value::String(text)) if text.is_empty() && may_be_empty => Ok(()),
            (Kind::Text, Value::String(text)) if is_line(text) => Ok(()),
            (Kind::Text, _) => Err(self.wrong("a line of text", value)),
            (Kind::Number, Value::Number(number)) if number.as_i64().is_some_and(|it| (1..=LARGEST).contains(&it)) => {
                Ok(())
            }
            (Kind::Number, _) => Err(self.wrong("a whole number from 1 upwards", value)),
            (Kind::Switch, Value::Bool(_)) => Ok(()),
            (Kind::Switch, _) => Err(self.wrong("true or false", value)),
            (Kind::List, Value::Array(items)) if items.iter().all(|item| item.as_str().is_some_and(is_line)) => Ok(()),
            (Kind::List, _) => Err(self.wrong("a list of texts, of a line each", value)),
        }
    }

    fn wrong(&self, wanted: &str, value: &Value) -> String {
        format!("{} must be {wanted}, and is {value}", self.name)
    }
}

/// Not empty, and without letters that end a line or that a manifest cannot hold.
fn is_line(text: &str) -> bool {
    const MORE_LINE_ENDS: [char; 4] = ['\u{2028}', '\u{2029}', '\u{feff}', '\u{fffe}'];
    !text.is_empty() && !text.contains(|letter: char| letter.is_control() || MORE_LINE_ENDS.contains(&letter))
}
