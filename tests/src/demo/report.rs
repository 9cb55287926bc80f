//! What a person wants to see at the end of the demo, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use proto::picker_v1::{Candidate, DecisionRecord, Filter, Scorer};

use super::traffic::Outcome;

/// Requests per endpoint: `names` gives the pod of an address.
#[must_use]
pub fn endpoints(outcomes: &[Outcome], names: &BTreeMap<String, String>) -> String {
    let mut rows: BTreeMap<String, (usize, u64, u64)> =
        names.keys().map(|address| (address.clone(), (0, 0, 0))).collect();
    for outcome in outcomes {
        let engine = outcome.reply.engine().map_or_else(|| "none".to_owned(), |engine| engine.to_string());
        let row = rows.entry(engine).or_default();
        row.0 += 1;
        row.1 += outcome.prompt_tokens.0;
        row.2 += outcome.prompt_tokens.1;
    }
    let mut text = format!("  {:<22} {:<18} {:>8}  prompt tokens from its cache\n", "endpoint", "pod", "requests");
    for (address, (requests, prompt, cached)) in rows {
        let pod = names.get(&address).map_or("?", String::as_str);
        let _ = writeln!(text, "  {address:<22} {pod:<18} {requests:>8}  {}", share(cached, prompt));
    }
    text
}

/// Round robin beside the picker, on the same traffic.
#[must_use]
pub fn comparison(round_robin: &[Outcome], picker: &[Outcome]) -> String {
    let mut text = format!("  {:<34} {:>14} {:>14}\n", "", "round robin", "kthena");
    let mut row = |name: &str, value: &dyn Fn(&[Outcome]) -> String| {
        let _ = writeln!(text, "  {name:<34} {:>14} {:>14}", value(round_robin), value(picker));
    };
    row("requests", &|outcomes| outcomes.len().to_string());
    row("prompt tokens from a prefix cache", &|outcomes| {
        let sum = |pick: fn(&Outcome) -> u64| outcomes.iter().map(pick).sum::<u64>();
        share(sum(|outcome| outcome.prompt_tokens.1), sum(|outcome| outcome.prompt_tokens.0))
    });
    for (name, percent) in [("time to first token, p50", 50), ("time to first token, p99", 99)] {
        row(name, &|outcomes| {
            let times = outcomes.iter().filter_map(Outcome::time_to_first_token).collect();
            percentile(times, percent).map_or_else(|| "-".to_owned(), milliseconds)
        });
    }
    text
}

fn share(part: u64, whole: u64) -> String {
    (part * 100).checked_div(whole).map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"))
}

/// The value that `percent` of the values do not exceed.
fn percentile(mut values: Vec<Duration>, percent: usize) -> Option<Duration> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// One decision with its candidates, each filter, each scorer, and why.
#[must_use]
pub fn decision(record: &DecisionRecord) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "  request {} for model {} in pool {}", record.request_id, record.model, record.pool);
    if !record.route.is_empty() {
        let _ = writeln!(text, "  route   {} -> ModelServer {}", record.route, record.model_server);
    }
    considered(&mut text, &record.filters, &record.scorers, &record.candidates, record.blocks);
    if !record.kv_measure.is_empty() {
        let _ = writeln!(text, "  caches  {}", record.kv_measure);
    }
    let _ = writeln!(text, "  why     {}", record.reason);
    if let Some(prefill) = &record.disaggregation {
        let _ = writeln!(text, "  prefill over {}", prefill.connector);
        considered(&mut text, &prefill.filters, &prefill.scorers, &prefill.candidates, record.blocks);
        let _ = writeln!(text, "  why     {}", prefill.reason);
    }
    text
}

/// Filters, and candidates with what each scorer gave them.
fn considered(text: &mut String, filters: &[Filter], scorers: &[Scorer], candidates: &[Candidate], blocks: u32) {
    for filter in filters {
        let _ = writeln!(text, "  filter  {:<16} {} -> {} candidates", filter.name, filter.before, filter.after);
    }
    let _ = write!(text, "  {:<22} {:<16} {:>9} {:>7}", "candidate", "pod", "in flight", "prefix");
    for scorer in scorers {
        let _ = write!(text, " {:>16}", format!("{} x{}", scorer.name, scorer.weight));
    }
    let _ = writeln!(text, " {:>7}", "total");
    let mut ranked: Vec<_> = candidates.iter().collect();
    ranked.sort_by_key(|candidate| (candidate.rank.unwrap_or(u32::MAX), candidate.address.clone()));
    for candidate in ranked {
        let mark = if candidate.rank == Some(0) { '>' } else { ' ' };
        let prefix = format!("{}/{}", candidate.matched_blocks, blocks);
        let _ = write!(
            text,
            "{mark} {:<22} {:<16} {:>9} {prefix:>7}",
            candidate.address, candidate.name, candidate.in_flight
        );
        if candidate.removed_by.is_empty() {
            for score in &candidate.scores {
                let _ = write!(
                    text,
                    " {:>16}",
                    score.value.map_or_else(|| "no measure".to_owned(), |it| format!("{it:.3}"))
                );
            }
            let _ = writeln!(text, " {:>7.3}", candidate.total.unwrap_or_default());
        } else {
            let _ = writeln!(text, "   removed by {}", candidate.removed_by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_value_that_so_many_do_not_exceed() {
        let values = |count: u64| (1..=count).map(Duration::from_millis).collect::<Vec<_>>();
        assert_eq!(percentile(values(100), 50), Some(Duration::from_millis(50)));
        assert_eq!(percentile(values(100), 99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(values(3), 99), Some(Duration::from_millis(3)));
        assert_eq!(percentile(values(0), 50), None);
    }
}
