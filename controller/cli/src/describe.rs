//! `kthena describe`: all about one thing.

use anyhow::Result;
use serde_json::Value;

use crate::args::{Describe, Format};
use crate::get::View;
use crate::templates::{self, Declared, Template};
use crate::{Outcome, print};

pub(crate) fn run(what: Describe) -> Result<Outcome> {
    let Describe::Template { name, output } = what;
    template(&templates::named(&name)?, output)?;
    Ok(Outcome::Done)
}

fn template(template: &Template, output: Option<Format>) -> Result<()> {
    if let Some(format) = output {
        return print::data(&View::of(template), format);
    }
    let name = template.name;
    let values = template.settle(None, &[])?;
    let made = template.render(name, "default", &values)?;
    let kinds: Vec<&str> =
        made.objects.iter().filter_map(|object| object.get("kind").and_then(Value::as_str)).collect();
    print::line(&format!("Name:         {name}"))?;
    print::line(&format!("Description:  {}", template.description()))?;
    print::line(&format!("Makes:        {}", kinds.join(", ")))?;
    print::line(&format!("Try:          kthena create manifest -t {name} --dry-run"))?;
    print::line("")?;
    let rows: Vec<[String; 4]> = template.values().iter().map(row).collect();
    print::table(["VALUE", "TYPE", "DEFAULT", "MEANING"], &rows)
}

fn row(declared: &Declared) -> [String; 4] {
    let default = match &declared.default {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    [declared.name.clone(), declared.choice(), default, declared.about.clone()]
}
