//! Waiting for a thing itself, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `look` sees something, and returns it.
///
/// # Errors
/// Names `what` when `deadline` passes first.
pub async fn until<T>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return Ok(seen);
        }
        if start.elapsed() > deadline {
            bail!("{what}: not seen within {deadline:?}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
