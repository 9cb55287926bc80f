//! `--controllers`: Kthena's grammar.

use std::str::FromStr;

/// The controllers that Kthena has, and `networking`, which its router has in place of one; the first two are in this
/// release.
const NAMES: [&str; 4] = ["modelserving", "networking", "modelbooster", "autoscaler"];

/// Which controllers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controllers {
    /// ModelServing, and LeaderWorkerSet with it.
    pub serving: bool,
    /// ModelServer and ModelRoute.
    pub networking: bool,
}

impl FromStr for Controllers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty()).collect();
        for word in &words {
            let name = word.trim_start_matches(['+', '-']);
            if *word != "*" && !NAMES.contains(&name) {
                return Err(format!("there is no controller `{name}`: use `*` or {}", NAMES.join(", ")));
            }
        }
        let on = |name: &str| {
            let said = words.iter().find_map(|word| match word.strip_prefix('-') {
                Some(not) => (not == name).then_some(false),
                None => (word.strip_prefix('+').unwrap_or(word) == name).then_some(true),
            });
            said.unwrap_or_else(|| words.is_empty() || words.contains(&"*"))
        };
        // As in Kthena, switching off every controller there is switches on all: nobody runs it to do nothing.
        let none = !NAMES.iter().any(|name| on(name));
        Ok(Self { serving: none || on("modelserving"), networking: none || on("networking") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_kthenas() {
        for (text, serving, networking) in [
            ("*", true, true),
            ("", true, true),
            ("modelserving", true, false),
            ("+modelserving,-modelbooster", true, false),
            ("networking", false, true),
            ("-modelserving,*", false, true),
            ("*,-modelserving", false, true),
            ("*,-networking", true, false),
            ("autoscaler", false, false),
            ("modelserving,-modelserving", true, false),
            ("-modelserving", true, true),
        ] {
            assert_eq!(text.parse(), Ok(Controllers { serving, networking }), "{text}");
        }
        let error = "pods".parse::<Controllers>().unwrap_err();
        assert!(error.contains("modelserving, networking, modelbooster, autoscaler"));
    }
}
