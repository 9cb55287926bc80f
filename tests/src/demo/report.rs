//! What a person wants to see at the end of the demo, as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

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
