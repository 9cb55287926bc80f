//! `kthena get`, `describe` and `create`: Kthena's words.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::Format;

const CREATE_EXAMPLES: &str = "\
Examples:
  kthena get templates
  kthena describe template vllm                 which values it takes
  kthena create manifest -t vllm --name llm --set model=Qwen/Qwen3-32B,gpus=4 --dry-run
  kthena create manifest -t vllm --name llm -f values.yaml -n serve
A comma within a value of --set is written \\, and the words of a list are separated by spaces:
  --set engineArgs='--max-model-len=8192 --enable-chunked-prefill'";

/// What is read.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Get {
    /// List the templates of `kthena create manifest`, or print one as it is
    #[command(visible_alias = "template")]
    Templates {
        /// The template to print
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// Print for programs
        #[arg(short, long, value_name = "FORMAT", value_enum)]
        output: Option<Format>,
    },
    /// List ModelServings and how they fare
    #[command(visible_aliases = ["model-serving", "ms"])]
    ModelServings(ObjectsArgs),
    /// List ModelServers and how they fare
    #[command(visible_aliases = ["model-server", "mserver"])]
    ModelServers(ObjectsArgs),
    /// List ModelRoutes and how they fare
    #[command(visible_aliases = ["model-route", "mroute"])]
    ModelRoutes(ObjectsArgs),
}

/// Which objects of a kind.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ObjectsArgs {
    /// This one alone
    #[arg(value_name = "NAME", conflicts_with = "all_namespaces")]
    pub(crate) name: Option<String>,
    /// Those of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// Print for programs
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub(crate) output: Option<Format>,
}

/// What is told in full.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Describe {
    /// Tell what a template makes and which values it takes
    #[command(visible_alias = "templates")]
    Template {
        /// The template
        #[arg(value_name = "NAME")]
        name: String,
        /// Print for programs
        #[arg(short, long, value_name = "FORMAT", value_enum)]
        output: Option<Format>,
    },
}

/// What is made.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Create {
    /// Deploy a model from a template
    #[command(after_help = CREATE_EXAMPLES)]
    Manifest(ManifestArgs),
}

/// From which template, with which values.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ManifestArgs {
    /// The template, one of `kthena get templates`
    #[arg(short, long, value_name = "TEMPLATE")]
    pub(crate) template: String,
    /// What the objects are called; as the template if not given
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Values, as `NAME: VALUE` in YAML
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) values_file: Option<PathBuf>,
    /// Values that go before those of the file, as `NAME=VALUE` or `NAME=VALUE,NAME=VALUE`; may be given again
    #[arg(long, value_name = "VALUES", value_parser = parse_values)]
    pub(crate) set: Vec<Given>,
    /// Print the manifests and create nothing; `server`: ask the cluster whether it would take them
    #[arg(long, value_name = "WHO", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    pub(crate) dry_run: Option<DryRun>,
    /// Do not ask before they are created
    #[arg(short, long, conflicts_with = "dry_run")]
    pub(crate) yes: bool,
    /// How --dry-run prints
    #[arg(short, long, value_name = "FORMAT", value_enum, requires = "dry_run")]
    pub(crate) output: Option<Format>,
}

/// Who looks at manifests that are not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    /// This program; no cluster is needed
    Client,
    /// The cluster
    Server,
}

/// Names with values, as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given(pub(crate) Vec<(String, String)>);

fn parse_values(text: &str) -> Result<Given, String> {
    let mut pieces = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, pieces.last_mut()) {
            ('\\', Some(piece)) if letters.next_if_eq(&',').is_some() => piece.push(','),
            (',', _) => pieces.push(String::new()),
            (letter, Some(piece)) => piece.push(letter),
            (_, None) => {}
        }
    }
    let values = pieces.iter().map(|piece| match piece.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err(format!("{piece:?} is no value: write NAME=VALUE, and a comma within a value as \\,")),
    });
    values.collect::<Result<_, _>>().map(Given)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    #[test]
    fn values_are_separated_by_commas_that_are_not_escaped() {
        let given = |text: &str| parse_values(text).map(|given| given.0);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(given("gpus=2,model=a/b"), Ok(vec![pair("gpus", "2"), pair("model", "a/b")]));
        assert_eq!(given(r"engineArgs=--x={1\,2}"), Ok(vec![pair("engineArgs", "--x={1,2}")]));
        assert_eq!(given("gateway="), Ok(vec![pair("gateway", "")]));
        assert_eq!(given(r"path=a\b"), Ok(vec![pair("path", r"a\b")]));
        for wrong in ["", "gpus", "=2", "gpus=2,", "gpus=1,2"] {
            assert!(given(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_dry_run_is_the_clients_unless_it_says_otherwise() {
        let dry_run = |words: &[&str]| {
            let words = [&["kthena", "create", "manifest", "-t", "vllm"], words].concat();
            match Args::try_parse_from(words).map(|args| args.command) {
                Ok(Command::Create { what: Create::Manifest(asked) }) => Ok(asked.dry_run),
                other => Err(format!("{other:?}")),
            }
        };
        assert_eq!(dry_run(&[]), Ok(None));
        assert_eq!(dry_run(&["--dry-run"]), Ok(Some(DryRun::Client)));
        assert_eq!(dry_run(&["--dry-run=server"]), Ok(Some(DryRun::Server)));
        assert!(dry_run(&["--dry-run", "--yes"]).is_err(), "one or the other");
        assert!(dry_run(&["-o", "yaml"]).is_err(), "what is created is not printed");
    }
}
