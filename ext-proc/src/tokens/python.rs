//! Values as Python writes them: what `json.dumps` and `str` would put into a prompt.

use std::fmt::Write as _;

use minijinja::Value;
use minijinja::value::ValueKind;

/// How deep a value may be nested.
const DEPTH: usize = 64;

/// `json.dumps(value, ensure_ascii=False, indent=indent)`: transformers' `tojson`, which keeps the order of keys
/// and escapes no HTML.
pub(super) fn json(value: &Value, indent: Option<usize>) -> Result<String, String> {
    let mut out = String::new();
    write_json(&mut out, value, indent, 0)?;
    Ok(out)
}

fn write_json(out: &mut String, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), String> {
    if depth > DEPTH {
        return Err(format!("a value is nested more than {DEPTH} deep"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => json_text(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter().map_err(|error| error.to_string())?.collect();
            between(out, ['[', ']'], items.len(), indent, depth, |out, place| {
                items.get(place).map_or(Ok(()), |item| write_json(out, item, indent, depth + 1))
            })?;
        }
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter().map_err(|error| error.to_string())?.collect();
            between(out, ['{', '}'], keys.len(), indent, depth, |out, place| {
                let Some(key) = keys.get(place) else { return Ok(()) };
                match key.as_str() {
                    Some(key) => json_text(out, key),
                    None => json_text(out, &json(key, None)?),
                }
                out.push_str(": ");
                let item = value.get_item(key).map_err(|error| error.to_string())?;
                write_json(out, &item, indent, depth + 1)
            })?;
        }
        kind => return Err(format!("{kind} is not JSON")),
    }
    Ok(())
}

/// Items between brackets, with Python's separators.
fn between(
    out: &mut String,
    brackets: [char; 2],
    count: usize,
    indent: Option<usize>,
    depth: usize,
    mut item: impl FnMut(&mut String, usize) -> Result<(), String>,
) -> Result<(), String> {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent.filter(|_| count > 0) {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let [open, close] = brackets;
    out.push(open);
    for place in 0..count {
        if place > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        line(out, depth + 1);
        item(out, place)?;
    }
    line(out, depth);
    out.push(close);
    Ok(())
}

fn json_text(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            letter if letter < ' ' => drop(write!(out, "\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
}

/// `str(value)`, for what a template prints.
pub(super) fn text(value: &Value) -> Result<String, String> {
    let mut out = String::new();
    match value.as_str() {
        Some(text) => out.push_str(text),
        None => repr(&mut out, value, 0)?,
    }
    Ok(out)
}

/// `repr(value)`.
fn repr(out: &mut String, value: &Value, depth: usize) -> Result<(), String> {
    if depth > DEPTH {
        return Err(format!("a value is nested more than {DEPTH} deep"));
    }
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            // Python escapes more than this inside of a list or a dict; what it does is not printed by templates.
            if text.chars().any(|letter| letter == '\'' || letter == '\\' || letter.is_control() || !letter.is_ascii())
            {
                return Err("a text inside of a printed list or dict needs Python's own quoting".to_owned());
            }
            out.extend(["'", text, "'"]);
        }
        ValueKind::Seq => {
            let items: Vec<Value> = value.try_iter().map_err(|error| error.to_string())?.collect();
            between(out, ['[', ']'], items.len(), None, depth, |out, place| {
                items.get(place).map_or(Ok(()), |item| repr(out, item, depth + 1))
            })?;
        }
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter().map_err(|error| error.to_string())?.collect();
            between(out, ['{', '}'], keys.len(), None, depth, |out, place| {
                let Some(key) = keys.get(place) else { return Ok(()) };
                repr(out, key, depth + 1)?;
                out.push_str(": ");
                repr(out, &value.get_item(key).map_err(|error| error.to_string())?, depth + 1)
            })?;
        }
        kind => return Err(format!("{kind} has no text in Python that is known here")),
    }
    Ok(())
}

/// A number as Python writes it: whole ones alike, others as the shortest that reads back, with an exponent
/// of at least two digits.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    let text =
        if float == 0.0 || (1e-4..1e16).contains(&float.abs()) { format!("{float:?}") } else { format!("{float:e}") };
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |rest| ("-", rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn json_has_pythons_spaces_numbers_and_order() {
        let source = r#"{"z": 1, "a": [1.0, 1e16, 1.5e-7, -2, 12345678901234567890, true, null], "u": "é<\"\n\u0001", "e": {}, "l": []}"#;
        assert_eq!(
            json(&value(source), None).unwrap(),
            "{\"z\": 1, \"a\": [1.0, 1e+16, 1.5e-07, -2, 12345678901234567890, true, null], \"u\": \"é<\\\"\\n\\u0001\", \"e\": {}, \"l\": []}"
        );
        let indented = json(&value(r#"{"a": [1, 2], "e": []}"#), Some(4)).unwrap();
        assert_eq!(indented, "{\n    \"a\": [\n        1,\n        2\n    ],\n    \"e\": []\n}");
        let deep = "[".repeat(DEPTH + 2) + &"]".repeat(DEPTH + 2);
        assert!(json(&value(&deep), None).is_err());
    }

    #[test]
    fn what_is_printed_is_pythons_str() {
        let printed = |json: &str| text(&value(json));
        assert_eq!(
            printed("true").unwrap() + &printed("null").unwrap() + &printed("0.0001").unwrap(),
            "TrueNone0.0001"
        );
        assert_eq!(printed(r#"{"a": [1, "b", false]}"#).unwrap(), "{'a': [1, 'b', False]}");
        assert_eq!(printed(r#""it's""#).unwrap(), "it's");
        assert!(printed(r#"["it's"]"#).is_err(), "rather nothing than a guess");
    }
}
