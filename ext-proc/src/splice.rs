//! Changes one value of a JSON body and nothing else: a body is never serialised anew, so unknown
//! fields, key order, spaces and big numbers survive.

use std::ops::Range;

/// `body` with the JSON string `value` in place of the bytes in `range`.
///
/// `None` when `range` does not lie in `body`.
#[must_use]
pub fn replace(body: &[u8], range: Range<usize>, value: &str) -> Option<Vec<u8>> {
    let (before, after) = (body.get(..range.start)?, body.get(range.end..)?);
    let mut spliced = Vec::with_capacity(before.len() + value.len() + 2 + after.len());
    spliced.extend_from_slice(before);
    serde_json::to_writer(&mut spliced, value).ok()?;
    spliced.extend_from_slice(after);
    Some(spliced)
}
