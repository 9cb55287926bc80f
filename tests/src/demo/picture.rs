//! A trace as a picture: a row for each span, its bar where it was in time. Made of the spans as they were exported.

use std::fmt::Write as _;

use crate::otlp_sink::TraceTree;

/// All in pixels.
const ROW: usize = 30;
const LABELS: usize = 540;
const BARS: usize = 460;
const TIMES: usize = 130;
const MARGIN: usize = 14;
/// One for each service, in the order of their appearance.
const COLOURS: [&str; 5] = ["#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d"];

/// The trace as an SVG document.
pub(super) fn svg(tree: &TraceTree) -> String {
    let rows = tree.rows();
    let start = rows.iter().map(|(_, span)| span.start).min().unwrap_or_default();
    let end = rows.iter().map(|(_, span)| span.end).max().unwrap_or_default();
    let whole = (end - start).max(1);
    let at = |time: u64| {
        let pixels = u128::from(time.saturating_sub(start)) * BARS as u128 / u128::from(whole);
        LABELS + usize::try_from(pixels).unwrap_or(BARS)
    };
    let mut services: Vec<&str> = Vec::new();
    let (width, height) = (LABELS + BARS + TIMES, rows.len() * ROW + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"ui-monospace, monospace\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (number, (depth, span)) in rows.iter().enumerate() {
        let index = services.iter().position(|service| *service == span.service).unwrap_or_else(|| {
            services.push(&span.service);
            services.len() - 1
        });
        let colour = COLOURS[index % COLOURS.len()];
        let (top, text) = (MARGIN + number * ROW, MARGIN + number * ROW + ROW / 2 + 4);
        let (from, to) = (at(span.start), at(span.end));
        let took = span.duration().as_secs_f64() * 1e3;
        let (indent, bar) = (MARGIN + depth * 16, (to - from).max(2));
        let _ = write!(
            svg,
            "<text x=\"{indent}\" y=\"{text}\"><tspan fill=\"{colour}\" font-weight=\"bold\">{}</tspan> {}</text>\n\
             <rect x=\"{from}\" y=\"{}\" width=\"{bar}\" height=\"{}\" rx=\"2\" fill=\"{colour}\"/>\n\
             <text x=\"{}\" y=\"{text}\" fill=\"#555555\">{took:.2} ms</text>\n",
            escaped(&span.service),
            escaped(short(&span.name)),
            top + 7,
            ROW - 14,
            from + bar + 6,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// An RPC's name without its package.
fn short(name: &str) -> &str {
    name.split_once('/').map_or(name, |(service, _)| match service.rfind('.') {
        Some(dot) => &name[dot + 1..],
        None => name,
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
