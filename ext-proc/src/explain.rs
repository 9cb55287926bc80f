//! Why: decisions and refusals as records, over gRPC (`kthena.picker.v1.Explain`) and as JSON.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use proto::picker_v1::{
    Candidate, DecisionRecord, Disaggregation as DisaggregationRecord, DryRunRequest, Filter, GetDecisionRequest,
    ListDecisionsRequest, ListDecisionsResponse, Refusal as RefusalRecord, Score, Scorer, explain_server,
};
use scheduling::{
    Content, Decision, Disaggregation, FilterReport, Headers, PoolName, Refusal, RefusalKind, Report, Request, Row,
    ScorerReport, Subset, WhatIf, WhatIfError,
};
use tonic::{Response, Status};

use crate::fleet::Fleet;
use crate::recent::{Outcome, Recent, Remembered};
use crate::tokens::{Asking, InTokens, Tokenizers};
use crate::{openai, rfc3339, to_proto};

/// How many decisions are listed when the caller does not say.
pub const DEFAULT_LIMIT: usize = 20;

/// The record of a remembered exchange.
#[must_use]
pub fn record(entry: &Remembered) -> DecisionRecord {
    let mut record = match &entry.outcome {
        Outcome::Decided(decision) => decided(decision),
        Outcome::Refused { refusal, status } => refused(refusal, *status),
    };
    record.request_id = entry.request_id.to_string();
    record.time = rfc3339::format(entry.time);
    if let Some(pool) = &entry.pool {
        record.pool = pool.to_string();
    }
    if let Some(model) = &entry.model {
        record.model = model.to_string();
    }
    record.served = entry.served.get().map(ToString::to_string).unwrap_or_default();
    record.trace_id = entry.trace_id.map(|id| id.to_string()).unwrap_or_default();
    record.duration_micros = micros(entry.took);
    record.body_mode = entry.body_mode.name().to_owned();
    record.body_hidden = entry.body_hidden;
    record
}

fn micros(took: std::time::Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn decided(decision: &Decision) -> DecisionRecord {
    let endpoints: Vec<String> = decision.endpoints().map(|endpoint| endpoint.address.to_string()).collect();
    DecisionRecord {
        target_model: decision.rewrite_model.as_deref().unwrap_or_default().to_owned(),
        endpoint: endpoints.first().cloned().unwrap_or_default(),
        endpoints,
        reason: decision.to_string(),
        disaggregation: decision.disaggregation.as_ref().map(disaggregation),
        ..considered(&decision.report, &decision.ranked)
    }
}

fn disaggregation(decided: &Disaggregation) -> DisaggregationRecord {
    let report = decided.report.as_deref();
    let rank = |row: &Row<'_>| {
        let place = decided.prefills.iter().position(|prefill| prefill.address == row.endpoint.address);
        place.map(count)
    };
    DisaggregationRecord {
        connector: decided.connector.name().to_owned(),
        verdict: decided.verdict.name().to_owned(),
        reason: decided.to_string(),
        prefills: decided.prefills.iter().map(|endpoint| endpoint.address.to_string()).collect(),
        sidecar: decided.sidecar,
        uncached_tokens: decided.uncached_tokens,
        filters: report.map(filters).unwrap_or_default(),
        scorers: report.map(scorers).unwrap_or_default(),
        candidates: report.into_iter().flat_map(Report::rows).map(|row| candidate(row, rank(&row))).collect(),
    }
}

fn filters(report: &Report) -> Vec<Filter> {
    let filter = |filter: &FilterReport| Filter {
        name: filter.name.to_owned(),
        before: count(filter.before),
        after: count(filter.after),
    };
    report.filters.iter().map(filter).collect()
}

fn scorers(report: &Report) -> Vec<Scorer> {
    let scorer = |scorer: &ScorerReport| Scorer { name: scorer.name.to_owned(), weight: scorer.weight };
    report.scorers.iter().map(scorer).collect()
}

fn refused(refusal: &Refusal, status: u16) -> DecisionRecord {
    let message = refusal.kind.to_string();
    DecisionRecord {
        reason: message.clone(),
        refusal: Some(RefusalRecord { code: refusal.kind.code().to_owned(), message, status: u32::from(status) }),
        ..refusal.report.as_ref().map(|report| considered(report, &[])).unwrap_or_default()
    }
}

fn considered(report: &Report, ranked: &[usize]) -> DecisionRecord {
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let candidates = report.rows().map(|row| {
        let rank = ranked.iter().position(|ranked| *ranked == row.index).map(count);
        candidate(row, rank)
    });
    DecisionRecord {
        pool: report.pool.to_string(),
        model: report.model.clone().unwrap_or_default(),
        route: text(&report.route),
        model_server: text(&report.model_server),
        filters: filters(report),
        scorers: scorers(report),
        candidates: candidates.collect(),
        blocks: report.blocks,
        kv_measure: report.kv.map(|measure| measure.to_string()).unwrap_or_default(),
        ..DecisionRecord::default()
    }
}

fn candidate(row: Row<'_>, rank: Option<u32>) -> Candidate {
    let Row { endpoint, candidate, .. } = row;
    let gauges = endpoint.gauges.as_ref();
    Candidate {
        address: endpoint.address.to_string(),
        name: endpoint.name.to_string(),
        removed_by: row.removed_by().unwrap_or_default().to_owned(),
        scores: row.scores().map(|(scorer, value)| Score { scorer: scorer.name.to_owned(), value }).collect(),
        total: candidate.total,
        in_flight: candidate.in_flight,
        gauges_age_ms: row.gauges_age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        waiting: gauges.map(|gauges| gauges.waiting),
        running: gauges.map(|gauges| gauges.running),
        kv_usage: gauges.and_then(|gauges| gauges.kv_usage),
        matched_blocks: candidate.matched_blocks,
        held_tokens: candidate.held_tokens,
        rank,
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Answers for the past from memory, and for the present by a dry run.
#[derive(Clone, Debug)]
pub struct Explainer {
    fleet: Arc<Fleet>,
    recent: Arc<Recent>,
    tokenizers: Option<Arc<Tokenizers>>,
}

impl Explainer {
    /// Explains the decisions of `fleet` that `recent` remembers; `tokenizers` are for dry runs.
    #[must_use]
    pub fn new(fleet: Arc<Fleet>, recent: Arc<Recent>, tokenizers: Option<Arc<Tokenizers>>) -> Self {
        Self { fleet, recent, tokenizers }
    }

    /// The newest `limit` records, newest first; of one pool or one request only, where given.
    #[must_use]
    pub fn list(&self, limit: usize, pool: Option<&str>, request_id: Option<&str>) -> ListDecisionsResponse {
        let wanted = |entry: &Remembered| {
            request_id.is_none_or(|id| *entry.request_id == *id)
                && pool.is_none_or(|pool| entry.pool.as_ref().is_some_and(|its| its.to_string() == pool))
        };
        let decisions = self.recent.newest(limit, wanted).iter().map(|entry| record(entry)).collect();
        ListDecisionsResponse { decisions }
    }

    /// What would be decided now. Nothing is counted, learned or sent; only the prompt's tokens are asked
    /// for, as for a request.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a pool that is not known or a subset that is no address.
    pub async fn dry_run(&self, asked: &DryRunRequest) -> Result<DecisionRecord, Status> {
        let began = Instant::now();
        let pool = self.pool(&asked.pool)?;
        let headers = AskedHeaders::new(asked);
        let subset = subset(&asked.subset)?;
        let what_if = what_if(asked.what_if.as_ref())?;
        let path = asked.path.split('?').next().unwrap_or_default();
        let id = headers.get("x-request-id").unwrap_or("dry-run").to_owned();
        let subset = subset.as_ref();
        let outcome = match content(&asked.body) {
            Ok(content) => {
                let (tokens, resolution) = (None, None);
                let request = Request { id: &id, path, headers: &headers, content, subset, tokens, resolution };
                let decided = self.decide(&pool, request, &asked.body, &what_if).await;
                decided.map_err(|error| Status::invalid_argument(format!("`what_if`: {error}")))?
            }
            Err(kind) => Err(kind.into()),
        };
        let record = match &outcome {
            Ok(decision) => decided(decision),
            Err(refusal) => refused(refusal, to_proto::status(&refusal.kind)),
        };
        Ok(DecisionRecord {
            pool: pool.to_string(),
            request_id: id,
            time: rfc3339::format(SystemTime::now()),
            dry_run: true,
            duration_micros: micros(began.elapsed()),
            ..record
        })
    }

    async fn decide(
        &self,
        pool: &PoolName,
        request: Request<'_>,
        body: &[u8],
        what_if: &WhatIf,
    ) -> Result<Result<Decision, Refusal>, WhatIfError> {
        let Some(asking) = Asking::of(self.tokenizers.as_ref(), &self.fleet, pool, &request) else {
            return self.fleet.dry_run(pool, &request, what_if);
        };
        let members = openai::PromptMembers::find(body);
        let tokens = asking.tokens(body, members.as_ref()).await;
        let (tokens, resolution) = (tokens.as_ref().map(InTokens::view), asking.resolution.as_ref());
        self.fleet.dry_run(pool, &Request { tokens, resolution, ..request }, what_if)
    }

    fn pool(&self, asked: &str) -> Result<PoolName, Status> {
        let snapshot = self.fleet.snapshot();
        let mut names = snapshot.pools.keys();
        let found = if asked.is_empty() {
            names.next().filter(|_| snapshot.pools.len() == 1)
        } else {
            names.find(|name| name.to_string() == asked)
        };
        found.cloned().ok_or_else(|| {
            let known: Vec<String> = snapshot.pools.keys().map(ToString::to_string).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Status::invalid_argument(format!("set `pool` to one of the pools as namespace/name; known: {known}"))
        })
    }
}

/// The body as the brain sees it.
fn content(body: &[u8]) -> Result<Content<'_>, RefusalKind> {
    if body.is_empty() {
        return Ok(Content::Absent);
    }
    openai::parse(body).map(|parsed| Content::Parsed(parsed.body))
}

fn what_if(asked: Option<&proto::picker_v1::WhatIf>) -> Result<WhatIf, Status> {
    let Some(asked) = asked else { return Ok(WhatIf::default()) };
    let address = |text: &String| {
        text.parse().map_err(|_| Status::invalid_argument(format!("`what_if.drained` must hold ip:port, not `{text}`")))
    };
    let drained = asked.drained.iter().map(address).collect::<Result<_, _>>()?;
    let weights = asked.weights.iter().map(|scorer| (scorer.name.clone(), scorer.weight)).collect();
    Ok(WhatIf { drained, weights })
}

fn subset(members: &[String]) -> Result<Option<Subset>, Status> {
    let mut subset = Subset::default();
    for member in members {
        if let Ok(address) = member.parse::<SocketAddr>() {
            subset.addresses.push(address);
        } else if let Ok(host) = member.parse::<IpAddr>() {
            subset.hosts.push(host);
        } else {
            return Err(Status::invalid_argument(format!("`subset` must hold ip:port or ip, not `{member}`")));
        }
    }
    Ok((!members.is_empty()).then_some(subset))
}

/// The headers of a dry run: names in lower case, and the path as Envoy would send it.
#[derive(Debug)]
struct AskedHeaders(HashMap<String, String>);

impl AskedHeaders {
    fn new(asked: &DryRunRequest) -> Self {
        let named = asked.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        let mut headers: HashMap<_, _> = named.collect();
        headers.entry(":path".to_owned()).or_insert_with(|| asked.path.clone());
        Self(headers)
    }
}

impl Headers for AskedHeaders {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

#[tonic::async_trait]
impl explain_server::Explain for Explainer {
    async fn list_decisions(
        &self,
        request: tonic::Request<ListDecisionsRequest>,
    ) -> Result<Response<ListDecisionsResponse>, Status> {
        let asked = request.into_inner();
        let limit = usize::try_from(asked.limit).ok().filter(|limit| *limit > 0).unwrap_or(DEFAULT_LIMIT);
        let pool = Some(asked.pool.as_str()).filter(|pool| !pool.is_empty());
        Ok(Response::new(self.list(limit, pool, None)))
    }

    async fn get_decision(
        &self,
        request: tonic::Request<GetDecisionRequest>,
    ) -> Result<Response<DecisionRecord>, Status> {
        let id = request.into_inner().request_id;
        let found = self.list(1, None, Some(&id)).decisions.pop();
        found.map(Response::new).ok_or_else(|| Status::not_found("no decision for this request id is remembered"))
    }

    async fn dry_run(&self, request: tonic::Request<DryRunRequest>) -> Result<Response<DecisionRecord>, Status> {
        Explainer::dry_run(self, &request.into_inner()).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests;
