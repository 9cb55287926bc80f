//! `kthena rollout history`: what there was, and what changed.

use anyhow::{Result, anyhow};
use controller_api::v1alpha1::model_serving::Role;
use planning::history::{Change, Line, State, change_of, lines};
use serde::Serialize;

use crate::Outcome;
use crate::args::Format;
use crate::cluster::Cluster;
use crate::print;

pub(crate) async fn run(
    cluster: &Cluster,
    name: &str,
    revision: Option<&str>,
    output: Option<Format>,
) -> Result<Outcome> {
    let serving = cluster.serving(name).await?;
    let history = cluster.history(&serving).await?;
    let lines = lines(&serving, &history);
    if lines.is_empty() {
        return Err(anyhow!("{name} has no revisions yet: does an operator run (kubectl get modelserving {name})?"));
    }
    let Some(wanted) = revision else {
        list(name, &lines, output)?;
        return Ok(Outcome::Done);
    };
    let entry = history.named(wanted).ok_or_else(|| {
        let known: Vec<String> = lines.iter().map(|line| line.number.to_string()).collect();
        anyhow!("{name} has no readable revision {wanted}; it has {}", known.join(", "))
    })?;
    let change = change_of(&history, entry);
    let line = lines.iter().find(|line| line.name == entry.revision.name);
    if let Some(format) = output {
        let changes = change.iter().flat_map(|(_, changes)| changes).map(ChangeView::of).collect();
        let before = change.as_ref().map(|(before, _)| before.revision.number);
        let view = RevisionView { line: line.map(View::of), before, changes, roles: &entry.revision.roles };
        print::data(&view, format)?;
        return Ok(Outcome::Done);
    }
    let number = entry.revision.number;
    print::line(&format!("{name} revision {number} ({})", entry.revision.name))?;
    if let Some(cause) = &entry.change_cause {
        print::line(&format!("change-cause: {cause}"))?;
    }
    match change {
        None => print::line("It is the first one that is kept; `-o yaml` prints its roles.")?,
        Some((before, changes)) => {
            print::line(&format!("Changed against revision {}:", before.revision.number))?;
            for change in changes {
                print::line(&format!("  {change}"))?;
            }
        }
    }
    Ok(Outcome::Done)
}

fn list(name: &str, lines: &[Line], output: Option<Format>) -> Result<()> {
    if let Some(format) = output {
        let views: Vec<View<'_>> = lines.iter().map(View::of).collect();
        return print::data(&views, format);
    }
    print::line(&format!("modelserving {name}"))?;
    let rows: Vec<[String; 5]> = lines
        .iter()
        .map(|line| {
            let state = if line.unreadable.is_some() { "unreadable" } else { line.state.word() };
            let cause = line.unreadable.as_deref().or(line.change_cause.as_deref()).unwrap_or("<none>");
            let created = line.created.map_or_else(|| "<unknown>".to_owned(), |created| created.to_string());
            [line.number.to_string(), line.name.clone(), created, state.to_owned(), cause.to_owned()]
        })
        .collect();
    print::table(["REVISION", "NAME", "CREATED", "STATE", "CHANGE-CAUSE"], &rows)
}

/// A revision, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'a> {
    revision: i64,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change_cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
}

impl<'a> View<'a> {
    fn of(line: &'a Line) -> Self {
        Self {
            revision: line.number,
            name: &line.name,
            created: line.created.map(|created| created.to_string()),
            state: (line.state != State::Past).then(|| line.state.word()),
            change_cause: line.change_cause.as_deref(),
            unreadable: line.unreadable.as_deref(),
        }
    }
}

/// What a revision changed and holds, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RevisionView<'a> {
    #[serde(flatten)]
    line: Option<View<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<i64>,
    changes: Vec<ChangeView<'a>>,
    roles: &'a [Role],
}

#[derive(Serialize)]
struct ChangeView<'a> {
    role: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a str>,
}

impl<'a> ChangeView<'a> {
    fn of(change: &'a Change) -> Self {
        let Change { role, path, before, after } = change;
        Self { role, path, before: before.as_deref(), after: after.as_deref() }
    }
}
