//! The few numbers that matter out of an engine's Prometheus text, without parsing the rest of it.
//!
//! An engine's page has some 60 KB and a thousand lines of histogram buckets; it is read several
//! times a second. Names are told apart by themselves, so the engine need not be known.

/// What an engine's page says. `None` where it has no such family.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// Requests in the queue, all ranks together.
    pub(crate) waiting: Option<f64>,
    /// Requests in the batch, all ranks together.
    pub(crate) running: Option<f64>,
    /// Used share of the KV cache, the mean over the ranks.
    pub(crate) kv_usage: Option<f64>,
    /// Time to first token since the engine's start.
    pub(crate) first_token: Option<Total>,
    /// Time per output token since the engine's start.
    pub(crate) output_token: Option<Total>,
    /// Time that requests spent in prefill since the engine's start.
    pub(crate) prefill: Option<Total>,
    /// Prompt tokens that were computed since then, and not found in a cache.
    pub(crate) computed_tokens: Option<f64>,
}

/// A histogram's sum, in seconds, and its count; of all series together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Total {
    pub(crate) seconds: f64,
    pub(crate) count: f64,
}

/// The series of one family.
#[derive(Clone, Copy, Debug, Default)]
struct Series {
    sum: f64,
    number: u32,
}

impl Series {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.number += 1;
    }

    fn sum(self) -> Option<f64> {
        (self.number > 0).then_some(self.sum)
    }

    fn mean(self) -> Option<f64> {
        (self.number > 0).then(|| self.sum / f64::from(self.number))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    sum: Series,
    count: Series,
}

impl Histogram {
    fn total(self) -> Option<Total> {
        Some(Total { seconds: self.sum.sum()?, count: self.count.sum()? })
    }
}

/// Reads a page. A family under its old name counts only where the new name is absent.
pub(crate) fn scan(text: &str) -> Reading {
    let (mut waiting, mut running) = (Series::default(), Series::default());
    let (mut kv_usage, mut old_kv_usage) = (Series::default(), Series::default());
    let mut first_token = Histogram::default();
    let (mut output_token, mut old_output_token) = (Histogram::default(), Histogram::default());
    let mut prefill = Histogram::default();
    let (mut prompt_tokens, mut cached_tokens) = (Series::default(), Series::default());
    for line in text.split('\n') {
        let Some(family) = line.strip_prefix("vllm:").or_else(|| line.strip_prefix("sglang:")) else { continue };
        let end = family.find(['{', ' ', '\t']).unwrap_or(family.len());
        let Some((name, rest)) = family.split_at_checked(end) else { continue };
        let series = match name {
            "num_requests_waiting" | "num_queue_reqs" => &mut waiting,
            "num_requests_running" | "num_running_reqs" => &mut running,
            "kv_cache_usage_perc" | "token_usage" => &mut kv_usage,
            "gpu_cache_usage_perc" => &mut old_kv_usage,
            "time_to_first_token_seconds_sum" => &mut first_token.sum,
            "time_to_first_token_seconds_count" => &mut first_token.count,
            "inter_token_latency_seconds_sum" => &mut output_token.sum,
            "inter_token_latency_seconds_count" => &mut output_token.count,
            "time_per_output_token_seconds_sum" => &mut old_output_token.sum,
            "time_per_output_token_seconds_count" => &mut old_output_token.count,
            "request_prefill_time_seconds_sum" => &mut prefill.sum,
            "request_prefill_time_seconds_count" => &mut prefill.count,
            "prompt_tokens_total" => &mut prompt_tokens,
            "prefix_cache_hits_total" | "external_prefix_cache_hits_total" => &mut cached_tokens,
            _ => continue,
        };
        if let Some(value) = value(rest) {
            series.add(value);
        }
    }
    Reading {
        waiting: waiting.sum(),
        running: running.sum(),
        kv_usage: kv_usage.mean().or_else(|| old_kv_usage.mean()).map(|share| share.clamp(0.0, 1.0)),
        first_token: first_token.total(),
        output_token: output_token.total().or_else(|| old_output_token.total()),
        prefill: prefill.total(),
        computed_tokens: prompt_tokens.sum().map(|tokens| (tokens - cached_tokens.sum().unwrap_or_default()).max(0.0)),
    }
}

/// The number behind the labels; `None` when it is not one that a gauge or a counter can have.
fn value(rest: &str) -> Option<f64> {
    let after = match rest.strip_prefix('{') {
        Some(labels) => labels.get(end_of_labels(labels)?..)?,
        None => rest,
    };
    let value: f64 = after.split_ascii_whitespace().next()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// The index behind the closing brace: a label's value may hold one, and escaped quotes.
fn end_of_labels(labels: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (index, byte) in labels.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some(index + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vllm_page_is_read() {
        // Families and labels as vLLM 0.32.0 shows them.
        let page = r#"# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="tiny"} 9.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="tiny"} 0.5
vllm:time_to_first_token_seconds_created{engine="0",model_name="tiny"} 1.79e+09
vllm:inter_token_latency_seconds_count{engine="0",model_name="tiny"} 14.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="tiny"} 0.07
vllm:request_prefill_time_seconds_count{engine="0",model_name="tiny"} 4.0
vllm:request_prefill_time_seconds_sum{engine="0",model_name="tiny"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 1000.0
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 300.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="tiny"} 100.0
"#;
        let reading = scan(page);
        assert_eq!((reading.waiting, reading.running, reading.kv_usage), (Some(2.0), Some(3.0), Some(0.25)));
        assert_eq!(reading.first_token, Some(Total { seconds: 0.5, count: 4.0 }));
        assert_eq!(reading.output_token, Some(Total { seconds: 0.07, count: 14.0 }));
        assert_eq!(reading.prefill, Some(Total { seconds: 0.25, count: 4.0 }));
        assert_eq!(reading.computed_tokens, Some(600.0));
    }

    #[test]
    fn an_sglang_page_is_read() {
        let page = "sglang:num_queue_reqs{model_name=\"m\"} 1\nsglang:num_running_reqs{model_name=\"m\"} 4\n\
            sglang:token_usage{model_name=\"m\"} 0.5\nsglang:time_to_first_token_seconds_sum 2\n\
            sglang:time_to_first_token_seconds_count 4\n";
        let reading = scan(page);
        assert_eq!((reading.waiting, reading.running, reading.kv_usage), (Some(1.0), Some(4.0), Some(0.5)));
        assert_eq!(reading.first_token, Some(Total { seconds: 2.0, count: 4.0 }));
        assert_eq!(reading.output_token, None);
    }

    #[test]
    fn ranks_are_summed_and_their_cache_use_is_averaged() {
        let page = "vllm:num_requests_waiting{engine=\"0\"} 2\nvllm:num_requests_waiting{engine=\"1\"} 3\n\
            vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.4\n";
        let reading = scan(page);
        assert_eq!(reading.waiting, Some(5.0));
        assert!((reading.kv_usage.unwrap() - 0.3).abs() < 1e-9);
    }

    #[test]
    fn old_names_count_where_the_new_ones_are_absent() {
        let old = "vllm:gpu_cache_usage_perc 0.9\nvllm:time_per_output_token_seconds_sum 1\n\
            vllm:time_per_output_token_seconds_count 2\n";
        assert_eq!(scan(old).kv_usage, Some(0.9));
        assert_eq!(scan(old).output_token, Some(Total { seconds: 1.0, count: 2.0 }));
        let both = format!("{old}vllm:kv_cache_usage_perc 0.1\n");
        assert_eq!(scan(&both).kv_usage, Some(0.1));
    }

    #[test]
    fn labels_may_hold_braces_and_quotes_and_a_timestamp_may_follow() {
        let page = "vllm:num_requests_running{model_name=\"a}\\\" 9\",engine=\"0\"} 3 1700000000\n";
        assert_eq!(scan(page).running, Some(3.0));
    }

    #[test]
    fn what_is_no_number_is_not_counted() {
        for bad in ["NaN", "+Inf", "-1", "x", ""] {
            assert_eq!(scan(&format!("vllm:num_requests_running {bad}\n")), Reading::default(), "{bad}");
        }
        assert_eq!(scan("vllm:num_requests_running{unclosed=\"} 3\n"), Reading::default());
        assert_eq!(scan("<html>vllm:num_requests_running 3</html>"), Reading::default());
    }
}
