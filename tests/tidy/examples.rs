//! What a user copies works.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory as _;
use kthena_ext_proc::args::Args;
use kthena_ext_proc::files::ConfigDir;
use kthena_ext_proc::fleet::Fleet;
use kthena_ext_proc::health::Readiness;
use scheduling::Profile;
use tests::poll;

use crate::repository::{FILES, File, refuse, root};

fn guide(path: &str) -> &'static File {
    FILES.iter().find(|file| file.path == path).expect("a guide is committed")
}

/// Folders of what goes in front of another folder's pools.
const WITHOUT_POOLS: &[&str] = &["gateway-api-examples/model-name-routing", "gateway-api-examples/otel"];

#[tokio::test]
async fn every_example_folder_is_a_fleet() {
    let folders: BTreeSet<&str> = FILES
        .iter()
        .filter(|file| file.path.starts_with("gateway-api-examples/") && file.path.ends_with(".yaml"))
        .filter_map(|file| Some(file.path.rsplit_once('/')?.0))
        .collect();
    assert!(!folders.is_empty(), "gateway-api-examples/ has no manifests");
    for folder in folders {
        let config_dir = ConfigDir::new(&root().join(folder)).expect("the folder can be listed");
        let declarations = config_dir.declarations();
        let fleet = Arc::new(Fleet::new(Profile::default()));
        let following = config_dir.follow(Arc::clone(&fleet), Readiness::default(), Arc::new(|| {}));
        let status = tokio::select! {
            ended = following => panic!("{folder}: reading ended: {ended:?}"),
            read = poll::until("the folder's manifests", Duration::from_secs(10), async || {
                let status = declarations.status.load_full();
                (status.generation > 0 || status.last_error.is_some()).then_some(status)
            }) => read.expect("a folder is read in time"),
        };
        assert_eq!(status.last_error, None, "{folder} does not load");
        // Of a ModelServer the operator makes a pool.
        let declared = !fleet.snapshot().pools.is_empty() || !declarations.resources.load().model_servers.is_empty();
        assert_eq!(declared, !WITHOUT_POOLS.contains(&folder), "{folder}: an InferencePool or a ModelServer");
    }
}

#[test]
fn the_scheduler_configuration_in_the_guide_loads() {
    let yaml = guide("deploy/configure.md")
        .text
        .split("```yaml")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("an example");
    let value = serde_saphyr::from_str(yaml).expect("it is YAML");
    let profile = Profile::from_value(&value).expect("it is a profile");
    refuse(profile.notes(), "The example has parts that are ignored:");
}

#[test]
fn every_flag_in_the_guides_exists() {
    // Cargo's, the demo's, the command line's, the engines', docker's, helm's and kubectl's.
    const FOREIGN: &[&str] = &[
        "bench",
        "bin",
        "cluster",
        "create-namespace",
        "disaggregation-bootstrap-port",
        "down",
        "envoy",
        "file",
        "for",
        "help",
        "keep",
        "kv-events-config",
        "list",
        "namespace",
        "nocapture",
        "picker",
        "release",
        "request",
        "server-side",
        "set",
        "skip",
        "tag",
        "test",
        "what-if",
    ];
    let commands = [Args::command(), kthena_controller_manager::args::Args::command()];
    let arguments = commands.iter().flat_map(clap::Command::get_arguments);
    let known: BTreeSet<&str> = arguments.filter_map(clap::Arg::get_long).collect();
    let texts = ["README.md", "deploy/attachment.md", "deploy/configure.md"].map(|path| guide(path).text.as_str());
    let flags = texts.iter().flat_map(|text| text.split(|letter: char| !(letter.is_alphanumeric() || letter == '-')));
    refuse(
        flags
            .filter_map(|word| word.strip_prefix("--"))
            .filter(|flag| flag.starts_with(|letter: char| letter.is_alphabetic()))
            .filter(|flag| !known.contains(flag) && !FOREIGN.contains(flag)),
        "These guides name flags that neither the picker nor the operator has:",
    );
}
