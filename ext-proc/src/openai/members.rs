//! Where in a body the members stand that the prompt's tokens are made of.

use std::ops::Range;

use crate::json::Reader;

/// All members of a body that decide about the prompt's tokens or its place in a cache, beside the model:
/// what else a body has may differ between requests of one prompt.
pub const PROMPT_MEMBERS: [&str; 13] = [
    "messages",
    "prompt",
    "tools",
    "documents",
    "chat_template",
    "chat_template_kwargs",
    "reasoning_effort",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "truncate_prompt_tokens",
    "prompt_embeds",
    "cache_salt",
];

/// The members of one body, in its order: which of [`PROMPT_MEMBERS`], and the bytes of its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptMembers(Vec<(u8, Range<usize>)>);

impl PromptMembers {
    /// Finds them; `None` where the body is no JSON object.
    #[must_use]
    pub fn find(body: &[u8]) -> Option<Self> {
        let mut members = Self::default();
        let mut reader = Reader::new(body);
        let read = reader.object(|reader, key| {
            let start = reader.place();
            reader.value()?;
            members.note(key, start..reader.end_of_value());
            Ok(())
        });
        read.and_then(|()| reader.end()).ok().map(|()| members)
    }

    /// Remembers a member's value, where it is one of those.
    pub(super) fn note(&mut self, key: &str, value: Range<usize>) {
        let which = (0..).zip(PROMPT_MEMBERS).find(|(_, member)| *member == key);
        self.0.extend(which.map(|(number, _)| (number, value)));
    }

    /// Bytes of memory that the list takes.
    pub(super) fn bytes(&self) -> usize {
        self.0.len() * size_of::<(u8, Range<usize>)>()
    }

    /// Each with the bytes of its value in `body`, of which this was found.
    pub fn of<'a>(&'a self, body: &'a [u8]) -> impl Iterator<Item = (u8, &'a [u8])> {
        self.0.iter().map(|(number, value)| (*number, body.get(value.clone()).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn members_are_found_wherever_they_stand_and_however_they_are_spelt() {
        let body = br#" {"model":"m", "temperature":1,"tools" : [{"messages":1}] ,"cache_salt":null,"m\u0065ssages":[ ] , "user":"u" } "#;
        let members = PromptMembers::find(body).unwrap();
        let values: Vec<_> =
            members.of(body).map(|(number, value)| (PROMPT_MEMBERS[usize::from(number)], value)).collect();
        assert_eq!(values, [("tools", &br#"[{"messages":1}]"#[..]), ("cache_salt", b"null"), ("messages", b"[ ]")]);
        assert_eq!(parse(body).unwrap().members, members, "found while reading, too");
        assert_eq!(parse(body).unwrap().detach(body).attach(body).members, members);
        assert_eq!(PromptMembers::find(b"[]"), None);
        assert_eq!(PromptMembers::find(b"{} {}"), None);
    }
}
