//! A decision as a person reads it: `kthena explain` and the demo print this.

use std::fmt::{self, Display, Formatter};

use crate::picker_v1::{Candidate, DecisionRecord, Filter, Scorer};

impl Display for DecisionRecord {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let tried = if self.dry_run { " (nothing was sent)" } else { "" };
        writeln!(out, "  request {} for model {} in pool {}{tried}", self.request_id, self.model, self.pool)?;
        if !self.route.is_empty() {
            writeln!(out, "  route   {} -> ModelServer {}", self.route, self.model_server)?;
        }
        if !self.target_model.is_empty() {
            writeln!(out, "  asks    for model {}", self.target_model)?;
        }
        considered(out, &self.filters, &self.scorers, &self.candidates, self.blocks)?;
        if !self.kv_measure.is_empty() {
            writeln!(out, "  caches  {}", self.kv_measure)?;
        }
        match &self.refusal {
            Some(refusal) => writeln!(out, "  refused {}: {} ({})", refusal.status, refusal.message, refusal.code)?,
            None => writeln!(out, "  why     {}", self.reason)?,
        }
        if let Some(prefill) = &self.disaggregation {
            writeln!(out, "  prefill over {}", prefill.connector)?;
            considered(out, &prefill.filters, &prefill.scorers, &prefill.candidates, self.blocks)?;
            writeln!(out, "  why     {}", prefill.reason)?;
        }
        if !self.served.is_empty() && self.served != self.endpoint {
            writeln!(out, "  served  by {}, not by the endpoint picked", self.served)?;
        }
        if !self.trace_id.is_empty() {
            writeln!(out, "  trace   {}", self.trace_id)?;
        }
        Ok(())
    }
}

/// Filters, and candidates with what each scorer gave them.
fn considered(
    out: &mut Formatter<'_>,
    filters: &[Filter],
    scorers: &[Scorer],
    candidates: &[Candidate],
    blocks: u32,
) -> fmt::Result {
    for filter in filters {
        writeln!(out, "  filter  {:<16} {} -> {} candidates", filter.name, filter.before, filter.after)?;
    }
    if candidates.is_empty() {
        return Ok(());
    }
    write!(out, "  {:<22} {:<16} {:>9} {:>7}", "candidate", "pod", "in flight", "prefix")?;
    for scorer in scorers {
        write!(out, " {:>16}", format!("{} x{}", scorer.name, scorer.weight))?;
    }
    writeln!(out, " {:>7}", "total")?;
    let mut ranked: Vec<_> = candidates.iter().collect();
    ranked.sort_by_key(|candidate| (candidate.rank.unwrap_or(u32::MAX), candidate.address.clone()));
    for candidate in ranked {
        let mark = if candidate.rank == Some(0) { '>' } else { ' ' };
        let prefix = format!("{}/{}", candidate.matched_blocks, blocks);
        write!(out, "{mark} {:<22} {:<16} {:>9} {prefix:>7}", candidate.address, candidate.name, candidate.in_flight)?;
        if candidate.removed_by.is_empty() {
            for score in &candidate.scores {
                let value = score.value.map_or_else(|| "no measure".to_owned(), |value| format!("{value:.3}"));
                write!(out, " {value:>16}")?;
            }
            writeln!(out, " {:>7.3}", candidate.total.unwrap_or_default())?;
        } else {
            writeln!(out, "   removed by {}", candidate.removed_by)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::picker_v1::{Candidate, DecisionRecord, Filter, Refusal, Score, Scorer};

    fn candidate(address: &str, rank: Option<u32>, value: Option<f32>) -> Candidate {
        Candidate {
            address: address.to_owned(),
            name: "default/pod".to_owned(),
            rank,
            total: value,
            scores: vec![Score { scorer: "least-request".to_owned(), value }],
            ..Candidate::default()
        }
    }

    #[test]
    fn the_winner_comes_first_and_is_marked() {
        let record = DecisionRecord {
            request_id: "id-1".to_owned(),
            model: "llama".to_owned(),
            pool: "default/llama".to_owned(),
            reason: "it was the only one".to_owned(),
            filters: vec![Filter { name: "ready".to_owned(), before: 3, after: 2 }],
            scorers: vec![Scorer { name: "least-request".to_owned(), weight: 2.0 }],
            candidates: vec![
                Candidate { removed_by: "ready".to_owned(), ..candidate("10.0.0.1:80", None, None) },
                candidate("10.0.0.2:80", Some(1), None),
                candidate("10.0.0.3:80", Some(0), Some(0.5)),
            ],
            ..DecisionRecord::default()
        };
        let text = record.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  request id-1 for model llama in pool default/llama");
        assert_eq!(lines[1], "  filter  ready            3 -> 2 candidates");
        assert!(lines[2].ends_with("least-request x2   total"), "{text}");
        assert!(lines[3].starts_with("> 10.0.0.3:80") && lines[3].ends_with("0.500   0.500"), "{text}");
        assert!(lines[4].starts_with("  10.0.0.2:80") && lines[4].contains("no measure"), "{text}");
        assert!(lines[5].starts_with("  10.0.0.1:80") && lines[5].ends_with("removed by ready"), "{text}");
        assert_eq!(lines[6], "  why     it was the only one");
    }

    #[test]
    fn a_refusal_says_what_the_client_got() {
        let refusal = Refusal { code: "overloaded".to_owned(), message: "all are busy".to_owned(), status: 429 };
        let record = DecisionRecord { refusal: Some(refusal), dry_run: true, ..DecisionRecord::default() };
        let text = record.to_string();
        assert!(text.contains("refused 429: all are busy (overloaded)"), "{text}");
        assert!(text.lines().next().is_some_and(|line| line.ends_with("(nothing was sent)")), "{text}");
        assert!(!text.contains("candidate"), "{text}");
    }
}
