//! Whether a chat template takes a message's content as one text or as a list of parts: vLLM looks for a
//! loop over the content of a message, and so do we.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

/// `{% set NAME = EXPRESSION %}`, of which only the beginning of the expression counts.
static SET: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"\{%-?\+?\s*set\s+([A-Za-z_]\w*)\s*=\s*([A-Za-z_]\w*)\s*(?:\[[^\]]*:[^\]]*\]|\||\bis\b|[-+]?%\})").ok()
});

/// `{% for NAME in EXPRESSION`.
static FOR: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"\{%-?\+?\s*for\s+([A-Za-z_]\w*)\s+in\s+([A-Za-z_]\w*)\s*(\.content\b|\[\s*['"]content['"]\s*\])?([^%]*)"#,
    )
    .ok()
});

/// Whether content is to be a list of parts.
pub(super) fn wants_parts(template: &str) -> bool {
    let (Some(set), Some(loops)) = (SET.as_ref(), FOR.as_ref()) else { return false };
    let text =
        |found: &regex::Captures<'_>, group: usize| found.get(group).map_or("", |found| found.as_str()).to_owned();
    let sets: Vec<(String, String)> =
        set.captures_iter(template).map(|found| (text(&found, 1), text(&found, 2))).collect();
    let mut lists = BTreeSet::from(["messages".to_owned()]);
    loop {
        let more: Vec<&String> = sets
            .iter()
            .filter(|(name, of)| lists.contains(of) && !lists.contains(name))
            .map(|(name, _)| name)
            .collect();
        if more.is_empty() {
            break;
        }
        lists.extend(more.into_iter().cloned().collect::<Vec<_>>());
    }
    // A loop over an attribute or an item of the list is not one over the list.
    let plain = |rest: &str| !matches!(rest.trim_start().as_bytes(), [b'.', ..]) && !is_item(rest.trim_start());
    let of_messages = |found: &regex::Captures<'_>| {
        (found.get(3).is_none() && plain(&text(found, 4)) && lists.contains(&text(found, 2))).then(|| text(found, 1))
    };
    let messages: BTreeSet<String> = loops.captures_iter(template).filter_map(|found| of_messages(&found)).collect();
    loops
        .captures_iter(template)
        .any(|found| found.get(3).is_some() && plain(&text(&found, 4)) && messages.contains(&text(&found, 2)))
}

/// `[1]`, and not a slice as `[1:]`.
fn is_item(rest: &str) -> bool {
    rest.strip_prefix('[').and_then(|rest| rest.split(']').next()).is_some_and(|inside| !inside.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::wants_parts;

    #[test]
    fn a_loop_over_the_content_of_a_message_wants_parts() {
        for template in [
            "{% for message in messages %}{% for part in message['content'] %}{% endfor %}{% endfor %}",
            "{%- for m in messages[1:] -%}{%- for c in m.content | selectattr('type') -%}{% endfor %}{% endfor %}",
            "{% set rest = messages[1:] %}{% for m in rest %}{% for c in m[\"content\"] %}{% endfor %}{% endfor %}",
        ] {
            assert!(wants_parts(template), "{template}");
        }
    }

    #[test]
    fn anything_else_wants_a_text() {
        for template in [
            "{% for m in messages %}{{ m['content'] }}{% endfor %}",
            "{% for m in messages %}{{ m.content | map(attribute='text') | join('') }}{% endfor %}",
            "{% for m in messages %}{% for t in m.tool_calls %}{% endfor %}{% endfor %}",
            "{% for tool in tools %}{% for c in tool['content'] %}{% endfor %}{% endfor %}",
            "{% for part in messages[0]['content'] %}{% endfor %}",
        ] {
            assert!(!wants_parts(template), "{template}");
        }
    }
}
