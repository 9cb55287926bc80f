//! A template and its values become manifests.

use anyhow::{Context as _, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value as Shown};
use serde_json::{Map, Value};

use super::{ROUTES, Template};

/// What a template came to.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    /// YAML, with the template's comments.
    pub(crate) text: String,
    /// The same, read.
    pub(crate) objects: Vec<Value>,
}

impl Template {
    /// The manifests of this name in this namespace, with `values` from [`Template::settle`].
    ///
    /// # Errors
    /// When the template asks for what it did not declare, or is no YAML: a fault of this program.
    pub(crate) fn render(&self, name: &str, namespace: &str, values: &Map<String, Value>) -> Result<Rendered> {
        let mut context = values.clone();
        context.insert("name".to_owned(), name.into());
        context.insert("namespace".to_owned(), namespace.into());
        let fault = || format!("the template {} is faulty", self.name);
        let source = format!("{}{ROUTES}", self.body);
        let engine = engine().with_context(fault)?;
        let text = engine.render_named_str(self.name, &source, Serde(&context)).with_context(fault)?;
        let read = |document: &str| serde_saphyr::from_str(document).with_context(fault);
        let objects = text.split("\n---\n").map(read).collect::<Result<_>>()?;
        Ok(Rendered { text, objects })
    }
}

/// Every `{{ … }}` is written as JSON, which is YAML too: no value, whatever it holds, is more than one scalar.
fn engine() -> Result<Environment<'static>, Error> {
    let mut engine = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()?;
    engine.set_syntax(syntax);
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_formatter(as_json);
    Ok(engine)
}

fn as_json(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Shown) -> Result<(), Error> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, "no scalar").with_source(error))?;
    Ok(out.write_str(&text)?)
}
