//! Changes one value of a JSON body and nothing else: a body is never serialised anew, so unknown
//! fields, key order, spaces and big numbers survive.

use std::ops::Range;

/// `body` with the JSON string `value` in place of the bytes in `range`.
///
/// `None` when `range` does not lie in `body`.
#[must_use]
pub fn replace(body: &[u8], range: Range<usize>, value: &str) -> Option<Vec<u8>> {
    let (before, after) = (body.get(..range.start)?, body.get(range.end..)?);
    let mut spliced = Vec::with_capacity(before.len() + value.len() + 2 + after.len());
    spliced.extend_from_slice(before);
    serde_json::to_writer(&mut spliced, value).ok()?;
    spliced.extend_from_slice(after);
    Some(spliced)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::openai;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-z]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn only_the_model_changes(
            fields in prop::collection::hash_map("[a-z]{1,8}", json(), 0..6),
            old in ".+",
            new in ".*",
            pretty: bool,
        ) {
            let mut body = Value::Object(fields.into_iter().collect());
            body["model"] = Value::from(old);
            let bytes = if pretty { serde_json::to_vec_pretty(&body) } else { serde_json::to_vec(&body) }.unwrap();
            let place = openai::parse(&bytes).unwrap().model;
            let spliced = replace(&bytes, place.clone(), &new).unwrap();
            prop_assert_eq!(&spliced[..place.start], &bytes[..place.start]);
            prop_assert!(spliced.ends_with(&bytes[place.end..]));
            body["model"] = Value::from(new);
            prop_assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), body);
        }
    }

    #[test]
    fn big_numbers_key_order_and_spaces_survive() {
        let body = br#"{ "z": 123456789012345678901234567890.10, "model" : "old", "a": [1.0, 1e5] }"#;
        let place = openai::parse(body).unwrap().model;
        let spliced = replace(body, place, "new\"er").unwrap();
        let expected = br#"{ "z": 123456789012345678901234567890.10, "model" : "new\"er", "a": [1.0, 1e5] }"#;
        assert_eq!(spliced, expected);
    }

    #[test]
    fn a_place_outside_of_the_body_is_no_place() {
        assert_eq!(replace(b"{}", 1..9, "m"), None);
    }
}
