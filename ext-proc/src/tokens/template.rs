//! A model's chat template, rendered as transformers renders it with Jinja2.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::format::wants_parts;
use super::python;
use crate::rfc3339;

/// The name of the one template of an environment.
const NAME: &str = "chat_template";

/// Steps that a template may take: one that loops for ever ends. A message takes some fifty.
const FUEL: u64 = 5_000_000;

/// A compiled chat template.
pub(super) struct Template {
    environment: Environment<'static>,
    wants_parts: bool,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Template").field("wants_parts", &self.wants_parts).finish_non_exhaustive()
    }
}

impl Template {
    /// Compiles `source`, which may use `tokens` (`bos_token` and the like) by name.
    pub(super) fn new(source: &str, tokens: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| describe(&error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_formatter(|output, _, value| {
            if let Some(text) = value.as_str() {
                return output.write_str(text).map_err(Error::from);
            }
            let text = python::text(value).map_err(|error| Error::new(ErrorKind::InvalidOperation, error))?;
            output.write_str(&text).map_err(Error::from)
        });
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: &str| {
            strftime(SystemTime::now(), format).map_err(|error| Error::new(ErrorKind::InvalidOperation, error))
        });
        for (name, token) in tokens {
            environment.add_global(name.clone(), Value::from(Arc::<str>::from(token.as_str())));
        }
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| describe(&error))?;
        Ok(Self { environment, wants_parts: wants_parts(source) })
    }

    /// Whether a message's content is to be a list of parts, and not one text.
    pub(super) fn wants_parts(&self) -> bool {
        self.wants_parts
    }

    /// Renders with these variables.
    pub(super) fn render(&self, variables: BTreeMap<String, Value>) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(|error| describe(&error))?;
        template.render(variables).map_err(|error| describe(&error))
    }
}

fn describe(error: &Error) -> String {
    let line = error.line().map_or_else(String::new, |line| format!(" (line {line})"));
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned) + &line
}

/// transformers' filter: `indent` is all that templates use of `json.dumps`.
#[expect(clippy::needless_pass_by_value, reason = "a filter takes its arguments by value")]
fn tojson(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    // Said as they are anyway, they change nothing.
    let plain = |name: &str| Ok::<_, Error>(!options.get::<Option<bool>>(name)?.unwrap_or_default());
    if !(plain("ensure_ascii")? && plain("sort_keys")?) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson with ensure_ascii or sort_keys is not known here"));
    }
    options.assert_all_used()?;
    python::json(value, indent).map_err(|error| Error::new(ErrorKind::InvalidOperation, error))
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The directives that chat templates use, in UTC, as engines in containers have it.
fn strftime(now: SystemTime, format: &str) -> Result<String, String> {
    // `2026-11-23T01:02:03…`
    let stamp = rfc3339::format(now);
    let field = |from: usize, to: usize| stamp.get(from..to).unwrap_or_default();
    let month = field(5, 7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.checked_sub(1)?));
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('Y') => out.push_str(field(0, 4)),
            Some('m') => out.push_str(field(5, 7)),
            Some('d') => out.push_str(field(8, 10)),
            Some('B') => out.push_str(month.copied().unwrap_or_default()),
            Some('b') => out.push_str(month.and_then(|month| month.get(..3)).unwrap_or_default()),
            Some('%') => out.push('%'),
            // Hours and minutes too: a prompt that has them is never the engine's.
            other => return Err(format!("strftime_now with %{} is not known here", other.unwrap_or_default())),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn render(source: &str, variables: &str) -> Result<String, String> {
        let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
        Template::new(source, &tokens)?.render(serde_json::from_str(variables).unwrap())
    }

    #[test]
    fn blocks_are_trimmed_and_pythons_methods_are_there() {
        let source = "{{ bos_token }}\n{% for m in messages %}\n    {% if loop.first %}\n[{{ m.strip().split(' ')[-1] }}]\n    {% endif %}\n{% endfor %}\nend\n";
        assert_eq!(render(source, r#"{"messages": [" a b ", "c"]}"#).unwrap(), "<s>\n[b]\nend");
        assert_eq!(render("{{ none_ }}{{ t }}{{ n }}", r#"{"t": true, "n": null}"#).unwrap(), "TrueNone");
    }

    #[test]
    fn a_template_may_write_json_break_out_of_loops_and_refuse() {
        assert_eq!(render("{{ t | tojson }}", r#"{"t": {"b": "<", "a": 1}}"#).unwrap(), r#"{"b": "<", "a": 1}"#);
        assert_eq!(render("{{ t | tojson(indent=2) }}", r#"{"t": [1]}"#).unwrap(), "[\n  1\n]");
        assert_eq!(
            render("{% for x in t %}{% if x > 1 %}{% break %}{% endif %}{{ x }}{% endfor %}", r#"{"t": [1, 2]}"#)
                .unwrap(),
            "1"
        );
        assert_eq!(render("{{ raise_exception('no tools') }}", "{}").unwrap_err(), "no tools (line 1)");
        assert!(render("{{ t | tojson(sort_keys=true) }}", r#"{"t": {}}"#).is_err());
        assert!(
            render("{% for x in range(100000) %}{% for y in range(100000) %}{% endfor %}{% endfor %}", "{}").is_err()
        );
    }

    #[test]
    fn dates_are_pythons() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 59);
        assert_eq!(strftime(time, "%d %b %Y, %Y-%m-%d, %B %%").unwrap(), "01 Mar 1970, 1970-03-01, March %");
        assert!(strftime(time, "%H").is_err());
    }
}
