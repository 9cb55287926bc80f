//! The reader beside `serde_json`.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The reader's verdict on one object, and its keys with their values as they are written.
fn read(text: &[u8]) -> Result<Vec<(String, &[u8])>, Malformed> {
    let mut members = Vec::new();
    let mut reader = Reader::new(text);
    reader.object(|reader, key| {
        members.push((key.to_owned(), reader.value()?));
        Ok(())
    })?;
    reader.end()?;
    Ok(members)
}

fn text_of(quoted: &str) -> Cow<'_, [u8]> {
    Reader::new(quoted.as_bytes()).string().unwrap().text()
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        r#"[ -~\n\t\\"]{0,40}"#.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(".{0,8}", inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn members_are_those_that_serde_json_finds(
        fields in prop::collection::hash_map(".{0,8}", json(), 0..6), pretty: bool,
    ) {
        let body = Value::Object(fields.into_iter().collect());
        let text = if pretty { serde_json::to_vec_pretty(&body) } else { serde_json::to_vec(&body) }.unwrap();
        let members = read(&text).unwrap();
        let body: Value = serde_json::from_slice(&text).unwrap();
        let again = members.into_iter().map(|(key, value)| (key, serde_json::from_slice::<Value>(value).unwrap()));
        prop_assert_eq!(Value::Object(again.collect()), body);
    }

    #[test]
    fn what_serde_json_refuses_is_refused_unless_it_stands_in_a_string(
        body in json(), at: prop::sample::Index, bent in prop_oneof![r#"[\[\]{}:,"0-9eE.+ntf\\ -]"#, ".", Just(String::new())],
    ) {
        let mut text = serde_json::to_string(&serde_json::json!({"a": body, "b": 1})).unwrap();
        let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
        let place = places[at.index(places.len())];
        let end = place + text[place..].chars().next().unwrap().len_utf8();
        text.replace_range(place..end, &bent);
        let strict = serde_json::from_str::<std::collections::BTreeMap<String, serde::de::IgnoredAny>>(&text);
        let ours = read(text.as_bytes());
        if strict.is_ok() {
            prop_assert!(ours.is_ok(), "{text}");
        } else if ours.is_ok() {
            let why = strict.unwrap_err().to_string();
            let inside = ["invalid escape", "control character", "surrogate", "hex escape"];
            prop_assert!(inside.iter().any(|inside| why.contains(inside)), "{text}: {why}");
        }
    }

    #[test]
    fn text_is_what_serde_json_reads(text in r#"(.|[\x00-\x1f"\\/]|😀){0,60}"#, ascii: bool) {
        let mut quoted = serde_json::to_string(&text).unwrap();
        if ascii {
            let escaped = quoted.chars().map(|character| match character {
                ' '..='~' => character.to_string(),
                other => other.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect(),
            });
            quoted = escaped.collect();
        }
        prop_assert_eq!(text_of(&quoted), text.as_bytes());
    }

    #[test]
    fn no_bytes_at_all_make_it_stumble(text in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = read(&text);
        let mut object = br#"{"a":""#.to_vec();
        object.extend_from_slice(&text);
        let _ = read(&object);
    }
}

#[test]
fn what_is_not_one_object_is_malformed() {
    let broken = [
        "",
        " ",
        "{",
        "}",
        "[]",
        "1",
        "{} {}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{,"a":1}"#,
        r#"{"a":1 "b":2}"#,
        r#"{a:1}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":[1 2]}"#,
        r#"{"a":[}"#,
        r#"{"a":01}"#,
        r#"{"a":-}"#,
        r#"{"a":1.}"#,
        r#"{"a":.5}"#,
        r#"{"a":1e}"#,
        r#"{"a":+1}"#,
        r#"{"a":nul}"#,
        r#"{"a":nulls}"#,
        r#"{"a":True}"#,
        r#"{"a":"}"#,
        r#"{"a":"\"}"#,
        "{\"\u{1}\":1}",
        r#"{"\q":1}"#,
        "\u{feff}{}",
    ];
    for broken in broken {
        assert_eq!(read(broken.as_bytes()), Err(Malformed), "{broken}");
        assert!(!complaint(broken.as_bytes()).is_empty());
    }
    assert_eq!(read(b"{\"\xff\":1}"), Err(Malformed), "a key that is no UTF-8");
}

#[test]
fn values_may_lie_as_deep_in_each_other_as_serde_json_allows() {
    let deep = |levels: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    for levels in [1, 125, 126, 127, 200_000] {
        let strict = serde_json::from_str::<std::collections::BTreeMap<String, serde::de::IgnoredAny>>(&deep(levels));
        // Skipped values have no limit there; read ones have.
        let read_strictly = serde_json::from_str::<Value>(&deep(levels));
        assert_eq!(read(deep(levels).as_bytes()).is_ok(), read_strictly.is_ok(), "{levels}: {:?}", strict.is_ok());
    }
}

#[test]
fn what_stands_in_a_string_is_its_readers_business() {
    assert_eq!(read(b"{\"a\":\"\x01\xff\\q\"}").unwrap(), [("a".to_owned(), b"\"\x01\xff\\q\"".as_slice())]);
    assert_eq!(text_of(r#""\q \u12 \ud83d \ud83dx \\""#), br"\q \u12 \ud83d \ud83dx \".as_slice());
    assert_eq!(text_of(r#""\ud83d\ude00\ud83d\u0041""#), "😀\\ud83dA".as_bytes());
}

#[test]
fn text_without_escapes_is_borrowed() {
    assert!(matches!(text_of(r#""plain""#), Cow::Borrowed(b"plain")));
}
