//! `kthena explain`: a picker's account of a decision, or of one that it would make.

mod own_picker;

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use proto::picker_v1::explain_client::ExplainClient;
use proto::picker_v1::{DecisionRecord, DryRunRequest, GetDecisionRequest, ListDecisionsRequest, Scorer, WhatIf};
use tonic::transport::{Channel, Endpoint};

use crate::args::{Change, ExplainArgs};
use crate::{Outcome, print};
use own_picker::OwnPicker;

/// A picker that does not answer by then is said to be out of reach.
const CONNECT: Duration = Duration::from_secs(5);
/// As long as a picker takes to ask an engine for the tokens, and more.
const ANSWER: Duration = Duration::from_secs(30);
/// A decision with a thousand candidates has some hundred kilobytes.
const LARGEST: usize = 64 << 20;

pub(crate) async fn run(args: ExplainArgs) -> Result<Outcome> {
    let own = match &args.config_dir {
        Some(folder) => Some(OwnPicker::start(folder, args.picker_program.as_deref()).await?),
        None => None,
    };
    let address = own.as_ref().map_or(args.picker.as_str(), OwnPicker::debug_address);
    let mut picker = connect(address).await?;
    let records = match (&args.request, &args.request_id) {
        (Some(file), _) => vec![dry_run(&mut picker, &args, read(file)?).await?],
        (None, Some(id)) => vec![one(&mut picker, id).await?],
        (None, None) => newest(&mut picker, &args).await?,
    };
    match (args.output, records.as_slice()) {
        (Some(format), [record]) if args.last == 1 => print::data(record, format)?,
        (Some(format), records) => print::data(&records, format)?,
        (None, records) => {
            let texts: Vec<String> = records.iter().map(ToString::to_string).collect();
            print::line(texts.join("\n").trim_end())?;
        }
    }
    Ok(Outcome::Done)
}

async fn connect(address: &str) -> Result<ExplainClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("--picker must be HOST:PORT, not {address:?}"))?;
    let channel = endpoint.connect_timeout(CONNECT).timeout(ANSWER).connect().await.map_err(|error| {
        anyhow!(error).context(format!(
            "no picker answers at {address}: its debug port listens on its own loopback only, so run `kubectl \
             port-forward` to its pod's port 15000, or name another address with --picker"
        ))
    })?;
    Ok(ExplainClient::new(channel).max_decoding_message_size(LARGEST))
}

async fn one(picker: &mut ExplainClient<Channel>, id: &str) -> Result<DecisionRecord> {
    match picker.get_decision(GetDecisionRequest { request_id: id.to_owned() }).await {
        Ok(record) => Ok(record.into_inner()),
        Err(status) if status.code() == tonic::Code::NotFound => bail!(
            "this picker remembers no decision for {id}: it keeps the newest few hundred; with several replicas ask each, \
             and compare with the x-request-id of the answer"
        ),
        Err(status) => Err(told(&status)),
    }
}

async fn newest(picker: &mut ExplainClient<Channel>, args: &ExplainArgs) -> Result<Vec<DecisionRecord>> {
    let asked = ListDecisionsRequest { limit: args.last, pool: args.pool.clone().unwrap_or_default() };
    let decisions = picker.list_decisions(asked).await.map_err(|status| told(&status))?.into_inner().decisions;
    if decisions.is_empty() {
        let of = args.pool.as_ref().map(|pool| format!(" of pool {pool}")).unwrap_or_default();
        bail!("this picker remembers no decision{of}: no request has come to it yet");
    }
    Ok(decisions)
}

async fn dry_run(picker: &mut ExplainClient<Channel>, args: &ExplainArgs, body: Vec<u8>) -> Result<DecisionRecord> {
    let mut what_if = WhatIf::default();
    for change in &args.what_if {
        match change {
            Change::Drain(address) => what_if.drained.push(address.to_string()),
            Change::Weight(name, weight) => what_if.weights.push(Scorer { name: name.clone(), weight: *weight }),
        }
    }
    let asked = DryRunRequest {
        pool: args.pool.clone().unwrap_or_default(),
        body,
        path: args.path.clone(),
        headers: args.header.iter().cloned().collect(),
        subset: Vec::new(),
        what_if: Some(what_if),
    };
    Ok(picker.dry_run(asked).await.map_err(|status| told(&status))?.into_inner())
}

fn told(status: &tonic::Status) -> anyhow::Error {
    anyhow!("{}", status.message())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body).context("cannot read standard input")?;
        return Ok(body);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
