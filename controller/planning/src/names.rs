//! What objects are called: Kthena's names, exactly.

/// A serving group: `llm-0`.
pub fn group(serving: &str, ordinal: u32) -> String {
    format!("{serving}-{ordinal}")
}

/// A role instance within its group: `prefill-1`.
pub fn role_id(role: &str, index: u32) -> String {
    format!("{role}-{index}")
}

/// A pod of a role instance: `llm-0-prefill-1-0`; number 0 is the entry pod, whose name the instance's headless
/// service shares.
pub fn pod(group: &str, role_id: &str, number: u32) -> String {
    format!("{group}-{role_id}-{number}")
}

/// A role instance as status and events name it: `llm-0/prefill-1`.
pub fn instance(group: &str, role_id: &str) -> String {
    format!("{group}/{role_id}")
}

/// A ControllerRevision: `llm-6c9f7b`.
pub fn revision(serving: &str, revision: &str) -> String {
    format!("{serving}-{revision}")
}

/// The number at the end of a name: 10 for `llm-10`; none where there is no number.
pub fn trailing_number(name: &str) -> Option<u32> {
    name.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ordinal_is_the_number_at_the_end() {
        assert_eq!(trailing_number("llm-10"), Some(10));
        assert_eq!(trailing_number("llm"), None);
        assert_eq!(trailing_number("llm-x"), None);
    }
}
