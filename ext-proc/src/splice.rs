//! Changes named values of a JSON body and nothing else: a body is never serialised anew, so unknown
//! fields, key order, spaces and big numbers survive.

use std::ops::Range;

use bytes::Bytes;

use crate::json::{Malformed, Reader};

/// One change to the members of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The member has this JSON as its value: in its place if it is there, else behind all others.
    Set(&'static str, Vec<u8>),
    /// The member has this JSON as its value, if it is there.
    Replace(&'static str, Vec<u8>),
    /// There is no such member.
    Remove(&'static str),
}

impl Change {
    /// The name of the member.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Set(key, _) | Self::Replace(key, _) | Self::Remove(key) => key,
        }
    }
}

/// The members of a JSON object, each with its place in the bytes.
#[derive(Debug)]
pub struct Members {
    bytes: Bytes,
    members: Vec<Member>,
}

/// One member. It stretches from where the one before ends, comma and key included, to the end of its value.
#[derive(Debug)]
struct Member {
    key: String,
    start: usize,
    value: Range<usize>,
}

impl Members {
    /// Finds the members of the object that `bytes` are.
    ///
    /// # Errors
    /// When `bytes` are no JSON object.
    pub fn read(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut end = bytes.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1);
        let mut members = Vec::with_capacity(8);
        reader.object(|reader, key| {
            let (start, place) = (end, reader.place());
            end = place + reader.value()?.len();
            members.push(Member { key: key.to_owned(), start, value: place..end });
            Ok(())
        })?;
        reader.end()?;
        Ok(Self { bytes: bytes.clone(), members })
    }

    /// The value of `key`, as it is written; of the last one where there are several, as engines read it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let member = self.members.iter().rfind(|member| member.key == key)?;
        self.bytes.get(member.value.clone())
    }

    /// The object with `changes`, at most one for each key; `None` where they change nothing.
    ///
    /// A key that stands twice stands once afterwards, if it is changed.
    #[must_use]
    pub fn changed(&self, changes: &[Change]) -> Option<Vec<u8>> {
        let new = changes.iter().map(|change| match change {
            Change::Set(key, value) => key.len() + value.len() + 4,
            Change::Replace(_, value) => value.len(),
            Change::Remove(_) => 0,
        });
        let mut out = Vec::with_capacity(self.bytes.len() + new.sum::<usize>());
        let mut done: Vec<&'static str> = Vec::new();
        let mut touched = false;
        let brace = self.members.first().map_or_else(|| self.tail(), |first| first.start);
        out.extend_from_slice(self.bytes.get(..brace)?);
        let mut empty = true;
        for member in &self.members {
            let change = changes.iter().find(|change| change.key() == member.key);
            let value = match change {
                None => self.bytes.get(member.value.clone())?,
                Some(Change::Set(key, value) | Change::Replace(key, value)) if !done.contains(key) => {
                    done.push(key);
                    touched = true;
                    value
                }
                Some(_) => {
                    touched = true;
                    continue;
                }
            };
            let before = self.bytes.get(member.start..member.value.start)?;
            // The first member that stays must not begin with the comma of one that went. Before a key
            // there is only white space, so the first comma is that one.
            let comma = before.iter().position(|byte| *byte == b',').filter(|_| empty && member.start != brace);
            if let Some(comma) = comma {
                out.extend_from_slice(before.get(comma + 1..)?);
            } else {
                out.extend_from_slice(before);
            }
            out.extend_from_slice(value);
            empty = false;
        }
        for change in changes {
            if let Change::Set(key, value) = change
                && !done.contains(key)
            {
                if !empty {
                    out.push(b',');
                }
                serde_json::to_writer(&mut out, key).ok()?;
                out.push(b':');
                out.extend_from_slice(value);
                (empty, touched) = (false, true);
            }
        }
        out.extend_from_slice(self.bytes.get(self.tail()..)?);
        touched.then_some(out)
    }

    /// Where the white space before the closing brace begins, or of an empty object the place behind its brace.
    fn tail(&self) -> usize {
        match self.members.last() {
            Some(last) => last.value.end,
            None => self.bytes.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1),
        }
    }
}

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

    /// `body` as one of several writings of the same object.
    fn written(body: &Value, pretty: bool) -> Vec<u8> {
        if pretty { serde_json::to_vec_pretty(body) } else { serde_json::to_vec(body) }.unwrap()
    }

    fn members(body: &[u8]) -> Result<Members, Malformed> {
        Members::read(&Bytes::copy_from_slice(body))
    }

    fn after(body: &str, changes: &[Change]) -> String {
        let changed = members(body.as_bytes()).unwrap().changed(changes).unwrap();
        String::from_utf8(changed).unwrap()
    }

    #[test]
    fn a_member_is_set_in_its_place_or_behind_all_others() {
        let set = |key, value: &str| Change::Set(key, value.into());
        assert_eq!(after(r#"{ "a" : 1 , "b":2 }"#, &[set("a", "[7]")]), r#"{ "a" : [7] , "b":2 }"#);
        assert_eq!(after(r#"{"a":1}"#, &[set("b", "2"), set("c", "3")]), r#"{"a":1,"b":2,"c":3}"#);
        assert_eq!(after(" { } ", &[set("b", "2")]), r#" {"b":2 } "#);
        assert_eq!(after(r#"{"a":{"b":1}}"#, &[set("b", "2")]), r#"{"a":{"b":1},"b":2}"#);
    }

    #[test]
    fn a_member_goes_with_its_comma() {
        let gone = [Change::Remove("x"), Change::Remove("y")];
        assert_eq!(after(r#"{ "x" : 1 , "a": 2, "y" :[","], "b": 3 }"#, &gone), r#"{ "a": 2, "b": 3 }"#);
        assert_eq!(after(r#"{"x":1,"y":2}"#, &gone), "{}");
        assert_eq!(after(r#"{"a":1,"x":","}"#, &gone), r#"{"a":1}"#);
        assert_eq!(after(r#"{"x":1,"y":2}"#, &[Change::Remove("x"), Change::Set("y", b"3".into())]), r#"{"y":3}"#);
    }

    #[test]
    fn a_member_that_stands_twice_or_in_escapes_is_found() {
        let once = [Change::Set("x", b"0".into())];
        assert_eq!(after(r#"{"x":1,"a":2,"\u0078":3}"#, &once), r#"{"x":0,"a":2}"#);
        let members = members(br#"{"x":1,"x":2}"#).unwrap();
        assert_eq!(members.get("x"), Some(b"2".as_slice()), "the last one counts");
    }

    #[test]
    fn changes_of_what_is_not_there_change_nothing() {
        let unchanged = members(br#"{"a":1}"#).unwrap();
        assert_eq!(unchanged.changed(&[Change::Remove("x"), Change::Replace("y", b"1".into())]), None);
        assert!(members(b"[1]").is_err());
        assert!(members(b"{} 1").is_err());
    }

    proptest! {
        #[test]
        fn only_the_named_members_change(
            fields in prop::collection::hash_map("[a-f]", json(), 0..6),
            set in "[a-f]",
            removed in "[a-f]",
            pretty: bool,
        ) {
            const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
            let name = |key: &str| *NAMES.iter().find(|name| **name == key).unwrap();
            let mut body = Value::Object(fields.into_iter().collect());
            let bytes = written(&body, pretty);
            let mut changes = vec![Change::Set(name(&set), b"[1.0]".into())];
            if removed != set {
                changes.push(Change::Remove(name(&removed)));
                body.as_object_mut().unwrap().remove(&removed);
            }
            body[&set] = serde_json::json!([1.0]);
            let changed = members(&bytes).unwrap().changed(&changes).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&changed).unwrap(), body);
            // And back again: what was set is removed, and nothing else is touched, to the byte.
            let bare = members(&bytes).unwrap().changed(&[Change::Remove(name(&set)), Change::Remove(name(&removed))]);
            let back = members(&changed).unwrap().changed(&[Change::Remove(name(&set))]).unwrap();
            prop_assert_eq!(back, bare.unwrap_or(bytes));
        }

        #[test]
        fn only_the_model_changes(
            fields in prop::collection::hash_map("[a-z]{1,8}", json(), 0..6),
            old in ".+",
            new in ".*",
            pretty: bool,
        ) {
            let mut body = Value::Object(fields.into_iter().collect());
            body["model"] = Value::from(old);
            let bytes = written(&body, pretty);
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
