//! `kthena create manifest`: a model from a template, all of it or nothing.

mod made;
mod sound;

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Result, bail};

use crate::args::{ClusterArgs, Create, DryRun, Format, ManifestArgs};
use crate::cluster::{self, Cluster};
use crate::templates::{self, Rendered};
use crate::{Outcome, print};
use made::Making;

pub(crate) async fn run(args: &ClusterArgs, what: Create) -> Result<Outcome> {
    let Create::Manifest(asked) = what;
    manifest(args, asked).await?;
    Ok(Outcome::Done)
}

async fn manifest(args: &ClusterArgs, asked: ManifestArgs) -> Result<()> {
    let template = templates::named(&asked.template)?;
    let values = template.settle(asked.values_file.as_deref(), &asked.set)?;
    let name = asked.name.as_deref().unwrap_or(template.name);
    let namespace = cluster::namespace(args).await?;
    let rendered = template.render(name, &namespace, &values)?;
    let pods = sound::pods(&rendered.objects)?;
    match asked.dry_run {
        Some(DryRun::Client) => return show(&rendered, asked.output),
        None if !asked.yes && !std::io::stdin().is_terminal() => {
            bail!("there is no terminal to ask at: say --yes to create the objects, or --dry-run to see them")
        }
        Some(DryRun::Server) | None => {}
    }

    let cluster = Cluster::connect(args).await?;
    let making = Making::of(&cluster, &rendered.objects)?;
    making.rehearse().await?;
    if asked.dry_run.is_some() {
        return match asked.output {
            Some(_) => show(&rendered, asked.output),
            None => {
                print::line(&format!("{} takes them: {}; nothing was created", cluster.url, making.each().join(", ")))
            }
        };
    }
    if !asked.yes && !agreed(&cluster, template.name, &making, pods)? {
        return print::line("nothing was created");
    }
    making.perform().await?;
    for name in making.each() {
        print::line(&format!("{name} created"))?;
    }
    print::line("")?;
    print::line("How far it is:")?;
    print::line(&format!("  kthena rollout status {name} -n {namespace}"))?;
    print::line("All of it away:")?;
    print::line(&format!("  kubectl delete -n {namespace} {}", making.each().join(" ")))
}

fn show(rendered: &Rendered, output: Option<Format>) -> Result<()> {
    match output {
        None | Some(Format::Yaml) => print::line(rendered.text.trim_end()),
        Some(Format::Json) => {
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": rendered.objects});
            print::data(&list, Format::Json)
        }
    }
}

/// Asks the person at the terminal.
fn agreed(cluster: &Cluster, template: &str, making: &Making<'_>, pods: i64) -> Result<bool> {
    let Cluster { namespace, url, .. } = cluster;
    print::line(&format!("The template {template} makes, in namespace {namespace} of {url}:"))?;
    for name in making.each() {
        print::line(&format!("  {name}"))?;
    }
    let plural = if pods == 1 { "" } else { "s" };
    write!(std::io::stdout(), "The operator makes {pods} pod{plural} of them. Create them? [y/N] ")?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
