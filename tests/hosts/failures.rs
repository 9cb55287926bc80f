//! What a client gets when the picker does not answer: measured, and compared with the table of the guide.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join, join_all};
use http::Method;
use tests::process::Signal;
use tests::progress::say;

use crate::host::{Failure, Host, Setting};
use crate::stage::{PATIENCE, Stage, ask};

/// Where a user reads it.
const GUIDE: &str = include_str!("../../gateway-api-examples/README.md");

/// An answer after this was waited for.
const AT_ONCE: Duration = Duration::from_secs(3);

/// How often each is asked; all answers have to be the same.
const TIMES: usize = 3;

/// What a client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Status(u16),
    Late(u16),
    Nothing,
}

impl fmt::Display for Got {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "{status}"),
            Self::Late(status) => write!(formatter, "{status}, after the timeout"),
            Self::Nothing => write!(formatter, "waits"),
        }
    }
}

/// # Errors
/// When a row is not as the guide says, or the picker is not obeyed once it is back.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    let mut rows = Vec::new();
    for setting in H::SETTINGS {
        stage.set(*setting).await?;
        stage.wait_until_picked().await?;

        stage.kill_picker();
        rows.push(row(stage, *setting, "gone, its Pod still Ready").await?);
        if H::PICKERS_BY_POD {
            stage.unready_picker().await?;
            rows.push(row(stage, *setting, "gone, its Pod not Ready").await?);
        }
        stage.restart_picker().await.context("a picker that came back")?;
        stage.set(*setting).await?;

        let process = |stage: &Stage<H>, signal| {
            stage.pickers().next().context("a picker runs").and_then(|picker| picker.process().signal(signal))
        };
        process(&*stage, Signal::Stop)?;
        rows.push(row(stage, *setting, "frozen").await?);
        process(&*stage, Signal::Continue)?;
        stage.wait_until_picked().await.context("a picker that thawed")?;
    }
    stage.set(H::SETTINGS[0]).await?;
    let ours = format!("| {} |", H::TITLE);
    let said: Vec<&str> = GUIDE.lines().filter(|line| line.starts_with(&ours)).collect();
    ensure!(said == rows, "gateway-api-examples/README.md says {said:#?}, and it is {rows:#?}");
    Ok(())
}

/// Asks, and writes the row of the guide.
async fn row<H: Host>(stage: &Stage<H>, setting: Setting, situation: &str) -> Result<String> {
    let posts = (0..TIMES).map(|_| got(async { ask(&stage.client, &[]).await.map(|reply| reply.status) }));
    let models = || stage.client.request(Method::GET, "/v1/models").send();
    let gets = (0..TIMES).map(|_| got(async { models().await.map(|reply| reply.status) }));
    let (mut posts, mut gets) = join(join_all(posts), join_all(gets)).await;
    for answers in [&mut posts, &mut gets] {
        answers.dedup();
        ensure!(answers.len() == 1, "{setting}, {situation}: not always the same: {answers:?}");
    }
    let [body, failure] = setting.words();
    let row = format!("| {} | {body} | {failure} | {situation} | {} | {} |", H::TITLE, posts[0], gets[0]);
    say(&row);
    let open = setting.failure == Failure::Open;
    ensure!(open || posts[0] != Got::Status(200), "it fails open, and was told not to");
    Ok(row)
}

async fn got(asking: impl Future<Output = Result<u16>>) -> Got {
    let start = Instant::now();
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(status)) if start.elapsed() < AT_ONCE => Got::Status(status),
        Ok(Ok(status)) => Got::Late(status),
        Ok(Err(_)) | Err(_) => Got::Nothing,
    }
}
