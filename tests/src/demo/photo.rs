//! The picture of the debug page in the guide, taken in the middle of the demo's traffic.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::stage::{self, Stage};
use super::traffic;
use crate::browser::Browser;
use crate::checkout;
use crate::client::Client;

/// More than any picture needs.
const CONVERSATIONS: usize = 2000;
const TURNS: usize = 4;
const SEED: u64 = 1;
/// How many go on at once: enough that every engine has some.
const AT_ONCE: usize = 20;
const PAIRS_AT_ONCE: usize = 2;

/// CSS pixels, and pixels of the picture.
const WIDTH: u32 = 1360;
const HEIGHT: u32 = 1300;
/// Bytes; whoever clones has it.
const LIMIT: usize = 150_000;

/// Makes 256 colours of the picture's thousands, which is a third of the bytes: the browser can do it, and nothing has
/// to be installed.
const PALETTE: &str = include_str!("palette.js");

/// The newest decision, if it is one of the first pool's, with a reason that leaves room for the others, and was quick:
/// just after the start, and on a busy machine, none is.
const WORTH_OPENING: &str = "[...document.querySelectorAll('#decisions tr.pick')].slice(0, 1).find(row =>
    row.innerText.includes('default/llama') && row.querySelector('.why').innerText.length < 190
    && parseInt(row.lastElementChild.innerText) < 5000)";

/// Where the guide has it.
#[must_use]
pub fn path() -> PathBuf {
    checkout::path("deploy/reference/debug-page.png")
}

/// Runs the demo's traffic, takes the picture and writes it to `file`.
///
/// # Errors
/// When something does not start, the traffic fails, or the picture is too large for a repository.
pub async fn debug_page(file: &Path) -> Result<()> {
    let stage = Stage::start().await?;
    let picture = tokio::select! {
        picture = picture(&stage) => picture?,
        ended = converse(&stage) => return ended.context("the traffic"),
        ended = pairs(&stage) => return ended.context("the traffic for the pairs"),
    };
    ensure!(picture.len() <= LIMIT, "the picture has {} bytes, more than {LIMIT}", picture.len());
    std::fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))
}

async fn picture(stage: &Stage) -> Result<Vec<u8>> {
    let mut browser = Browser::start().await?;
    browser.resize(WIDTH, HEIGHT, false).await?;
    browser.prefer_dark(false).await?;
    browser.open(&format!("http://{}/", stage.picker.debug_address())).await?;
    browser.until("many decisions", "document.querySelectorAll('#decisions tr.pick').length === 40").await?;
    browser.until("a decision worth opening", &format!("{WORTH_OPENING} !== undefined")).await?;
    browser.evaluate(&format!("{WORTH_OPENING}.click()")).await?;
    browser.until("its explanation", "document.querySelector('tr.detail') !== null").await?;
    let picture = BASE64_STANDARD.encode(browser.screenshot().await?);
    // Not on the page, which loads no pictures from elsewhere and is not to be changed.
    browser.open("about:blank").await?;
    let fewer = browser.evaluate(&PALETTE.replace("PICTURE", &picture)).await?;
    browser.close().await?;
    Ok(BASE64_STANDARD.decode(fewer.as_str().context("no picture")?)?)
}

/// The demo's conversations, until there are no more.
async fn converse(stage: &Stage) -> Result<()> {
    let plan = traffic::plan(CONVERSATIONS, TURNS, SEED);
    let [llama, qwen] = ["llama", "qwen"].map(|pool| Client::new(stage.envoy.listener(pool)));
    let conversations = stream::iter(&plan).map(|conversation| {
        let client = if conversation.pool == "qwen" { &qwen } else { &llama };
        traffic::converse(conversation, client, |_| ())
    });
    conversations.buffer_unordered(AT_ONCE).try_for_each(|_| std::future::ready(Ok(()))).await?;
    bail!("it ended before the picture was taken")
}

/// Long prompts for the model that is served by pairs.
async fn pairs(stage: &Stage) -> Result<()> {
    let client = Client::new(stage.envoy.listener("deepseek"));
    let asked = stream::iter(SEED..).map(|seed| traffic::long_chat(&client, "deepseek", stage::PAIRED, seed));
    asked.buffer_unordered(PAIRS_AT_ONCE).try_for_each(|_| std::future::ready(Ok(()))).await?;
    bail!("it ended before the picture was taken")
}
