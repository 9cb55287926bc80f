//! The command line. Flags that kubectl has are kubectl's.

mod templates;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

pub(crate) use self::templates::{Create, Describe, DryRun, Get, Given, ManifestArgs, ObjectsArgs};

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not finished in time, 4 held until somebody acts";

const AS_PLUGIN: &str = "\
A link named kubectl-kthena to this program, anywhere in $PATH, makes it `kubectl kthena`.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not finished in time, 4 held until somebody acts";

/// Ask and steer Kthena for Envoy.
#[derive(Clone, Debug, Parser)]
#[command(name = "kthena", version, max_term_width = 100, after_help = AS_PLUGIN)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// The command line of this process; on a wrong one it ends, having said why.
    pub(crate) fn of_process() -> Self {
        let called = std::env::args_os().next().map(PathBuf::from);
        let plugin = called.as_ref().and_then(|path| path.file_stem()).is_some_and(|name| name == "kubectl-kthena");
        // Help shows what a user typed.
        let command = if plugin { Self::command().bin_name("kubectl kthena") } else { Self::command() };
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// Which cluster, and where in it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// The namespace; that of the context if not given
    #[arg(short, long, global = true, value_name = "NAMESPACE", help_heading = "Cluster")]
    pub(crate) namespace: Option<String>,
    /// The context of the kubeconfig; its current one if not given
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub(crate) context: Option<String>,
    /// The kubeconfig; the files of $KUBECONFIG or ~/.kube/config if not given, in a pod its service account
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Watch, undo, hold and resume the rollout of a ModelServing
    Rollout {
        #[command(subcommand)]
        action: RolloutAction,
    },
    /// Say why a picker decided as it did, or how it would decide
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(ExplainArgs),
    /// Find the usual mistakes, in a cluster or in files, and say what to do
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// List what there is
    Get {
        #[command(subcommand)]
        what: Get,
    },
    /// Tell all about one thing
    Describe {
        #[command(subcommand)]
        what: Describe,
    },
    /// Deploy a model from a template
    Create {
        #[command(subcommand)]
        what: Create,
    },
}

const DOCTOR_EXAMPLES: &str = "\
Examples:
  kthena doctor -n serve                        the objects of a namespace
  kthena doctor --config-dir manifests          the same in files, before they are applied
  kthena doctor --envoy deploy/envoy/standalone.yaml
  kubectl -n serve port-forward deploy/kthena-ext-proc 15000 &
  kubectl -n gateways port-forward deploy/edge 19000 &
  kthena doctor -n serve --picker 127.0.0.1:15000 --envoy http://127.0.0.1:19000
Exit codes: 0 no error was found (there may be warnings), 1 one was, 2 wrong usage";

/// Where to look, and how to tell.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Look into all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "config_dir"])]
    pub(crate) all_namespaces: bool,
    /// Read the manifests of this folder in place of a cluster's objects
    #[arg(long, value_name = "DIR", conflicts_with_all = ["namespace", "context", "kubeconfig"])]
    pub(crate) config_dir: Option<PathBuf>,
    /// Read an Envoy's configuration too: a bootstrap or a config_dump in a file, or the http:// address of an admin port
    #[arg(long, value_name = "FILE|URL")]
    pub(crate) envoy: Option<String>,
    /// Ask a picker too, at its debug port; with it or --envoy the cluster is read only if -n, -A, --context or --kubeconfig is given
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) picker: Option<String>,
    /// Leave this check out; may be given again
    #[arg(long, value_name = "CHECK", value_parser = clap::builder::PossibleValuesParser::new(crate::doctor::ids()))]
    pub(crate) skip: Vec<String>,
    /// List the checks, and do none
    #[arg(long)]
    pub(crate) list: bool,
    /// Print for programs
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub(crate) output: Option<Format>,
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  kubectl -n kthena-system port-forward deploy/kthena-ext-proc 15000 &
  kthena explain                                the newest decision
  kthena explain 5f0c6a1e-…                     the decision for a request, by its x-request-id
  kthena explain --request body.json --what-if drain=10.0.0.7:8000 --what-if weight=prefix-cache=0
  kubectl get pods,inferencepools,modelservers,modelroutes -o yaml > dump/cluster.yaml
  kthena explain --config-dir dump --request body.json";

/// Which decision, of which picker.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// The request's x-request-id; the newest decisions if not given
    #[arg(value_name = "REQUEST-ID", conflicts_with_all = ["last", "request", "config_dir"])]
    pub(crate) request_id: Option<String>,
    /// The newest N decisions
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "request", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub(crate) last: u32,
    /// The pool, as NAMESPACE/NAME; needed for --request where there are several
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: Option<String>,
    /// Where the picker's debug port is
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000", conflicts_with = "config_dir")]
    pub(crate) picker: String,
    /// Ask a picker of its own, started for the manifests of this folder; of load and caches it knows nothing
    #[arg(long, value_name = "DIR", requires = "request")]
    pub(crate) config_dir: Option<PathBuf>,
    /// The picker program for --config-dir; beside this program or in $PATH if not given
    #[arg(long, value_name = "FILE", requires = "config_dir")]
    pub(crate) picker_program: Option<PathBuf>,
    /// Print for programs
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub(crate) output: Option<Format>,

    /// Say what would be decided for this request body now; `-` is standard input. Nothing is sent to an engine but to ask for tokens
    #[arg(long, value_name = "FILE", help_heading = "A request that was not made")]
    pub(crate) request: Option<PathBuf>,
    /// Its path
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/v1/chat/completions",
        requires = "request",
        help_heading = "A request that was not made"
    )]
    pub(crate) path: String,
    /// One of its headers, as `NAME: VALUE`; may be given again
    #[arg(long, value_name = "HEADER", requires = "request", value_parser = parse_header, help_heading = "A request that was not made")]
    pub(crate) header: Vec<(String, String)>,
    /// Take something as different: `drain=IP:PORT` or `weight=SCORER=NUMBER`; may be given again
    #[arg(long, value_name = "CHANGE", requires = "request", value_parser = parse_change, help_heading = "A request that was not made")]
    pub(crate) what_if: Vec<Change>,
}

/// What is taken as different.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// This endpoint is not ready.
    Drain(SocketAddr),
    /// This scorer has another weight.
    Weight(String, f32),
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("{text:?} is no header: write NAME: VALUE")),
    }
}

fn parse_change(text: &str) -> Result<Change, String> {
    let wrong = || format!("{text:?} is no change: write drain=IP:PORT or weight=SCORER=NUMBER");
    match text.split_once('=').ok_or_else(wrong)? {
        ("drain", address) => address.parse().map(Change::Drain).map_err(|_| wrong()),
        ("weight", rest) => {
            let (scorer, weight) = rest.split_once('=').ok_or_else(wrong)?;
            weight.parse().map(|weight| Change::Weight(scorer.to_owned(), weight)).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum RolloutAction {
    /// Wait until a rollout is complete, and tell how far it is
    #[command(after_help = EXIT_CODES)]
    Status {
        #[command(flatten)]
        target: Target,
        /// Give up after this time, as `90s`, `10m` or `1h`
        #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_duration)]
        timeout: Duration,
        /// `false`: tell how far it is now, and do not wait
        #[arg(short, long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
        watch: bool,
    },
    /// List the revisions that can be gone back to, or tell what one of them changed
    History {
        #[command(flatten)]
        target: Target,
        /// Tell what this revision changed against the one before, by its number or name
        #[arg(long, value_name = "REVISION")]
        revision: Option<String>,
        /// Print for programs
        #[arg(short, long, value_name = "FORMAT", value_enum)]
        output: Option<Format>,
    },
    /// Go back to an earlier revision; replica counts stay as they are
    Undo {
        #[command(flatten)]
        target: Target,
        /// The revision to go back to, by its number or name; the one before if not given
        #[arg(long, value_name = "REVISION")]
        to_revision: Option<String>,
        /// Tell what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Hold a rollout where it is; repair and scaling go on
    Pause {
        #[command(flatten)]
        target: Target,
    },
    /// Let a rollout that was held go on
    Resume {
        #[command(flatten)]
        target: Target,
    },
}

/// The ModelServing.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    /// The ModelServing; `modelserving/NAME` is understood too
    #[arg(value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

fn parse_name(text: &str) -> Result<String, String> {
    const KINDS: [&str; 3] = ["modelserving", "modelservings", "ms"];
    let Some((kind, name)) = text.split_once('/') else { return Ok(text.to_owned()) };
    let plain = kind.split('.').next().unwrap_or(kind).to_lowercase();
    if KINDS.contains(&plain.as_str()) && !name.is_empty() {
        Ok(name.to_owned())
    } else {
        Err(format!("{kind:?} is no ModelServing: write modelserving/NAME or NAME"))
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write it as 90s, 10m or 1h");
    let at = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_name_may_carry_its_kind_as_for_kubectl() {
        for text in
            ["llm", "ms/llm", "modelserving/llm", "ModelServings/llm", "modelserving.workload.serving.volcano.sh/llm"]
        {
            assert_eq!(parse_name(text).as_deref(), Ok("llm"), "{text}");
        }
        assert!(parse_name("pod/llm").is_err());
        assert!(parse_name("ms/").is_err());
    }

    #[test]
    fn a_change_is_a_drain_or_a_weight() {
        assert_eq!(parse_change("drain=10.0.0.1:80"), Ok(Change::Drain(([10, 0, 0, 1], 80).into())));
        assert_eq!(parse_change("weight=prefix-cache=0.5"), Ok(Change::Weight("prefix-cache".to_owned(), 0.5)));
        for wrong in ["", "drain", "drain=pod-1", "weight=prefix-cache", "weight=prefix-cache=much", "stop=1"] {
            assert!(parse_change(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_request_that_was_not_made_has_no_id() {
        assert!(Args::try_parse_from(["kthena", "explain", "some-id", "--request", "body.json"]).is_err());
        assert!(Args::try_parse_from(["kthena", "explain", "--what-if", "drain=10.0.0.1:80"]).is_err());
        assert!(Args::try_parse_from(["kthena", "explain", "--config-dir", "dump"]).is_err());
        assert!(Args::try_parse_from(["kthena", "explain", "some-id"]).is_ok());
    }

    #[test]
    fn a_check_that_is_left_out_exists() {
        assert!(Args::try_parse_from(["kthena", "doctor", "--skip", "body-hidden", "-A"]).is_ok());
        assert!(Args::try_parse_from(["kthena", "doctor", "--skip", "everything"]).is_err());
        assert!(Args::try_parse_from(["kthena", "doctor", "-A", "-n", "serve"]).is_err());
        assert!(Args::try_parse_from(["kthena", "doctor", "--config-dir", "dump", "-n", "serve"]).is_err());
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["", "10", "m", "1d", "-1s", "99999999999999999999s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_cluster_may_be_named_after_the_command() {
        let args =
            Args::parse_from(["kthena", "rollout", "status", "llm", "-n", "serve", "--context", "c", "--watch=false"]);
        assert_eq!(args.cluster.namespace.as_deref(), Some("serve"));
        let Command::Rollout { action: RolloutAction::Status { watch, .. } } = args.command else { panic!("status") };
        assert!(!watch);
    }
}
