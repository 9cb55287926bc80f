//! A real browser without a window: Chromium, with one page.
//!
//! It is told what to do over its DevTools protocol, JSON with a zero byte after each message, through two named
//! pipes that it has as descriptors 3 and 4 (`--remote-debugging-pipe`): no port, no driver, and when the pipe is
//! closed it ends by itself.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;

use crate::poll;
use crate::process::{Process, Program};
use crate::scratch::Scratch;

/// For an answer of the browser, its first one included: it starts slowly on a busy machine.
const ANSWER: Duration = Duration::from_secs(30);
/// For what a page is to show.
const SHOWN: Duration = Duration::from_secs(20);

/// Nothing of the machine's is used or kept, and nobody outside is called.
const FLAGS: &[&str] = &[
    "--headless",
    "--remote-debugging-pipe",
    // Pages of our own alone are opened, also by root, for whom there is no sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--password-store=basic",
    "--use-mock-keychain",
    "--hide-scrollbars",
    "--lang=en-GB",
];

/// Gives the browser its pipes: `$1` to read, `$2` to write, the rest is the command.
const WITH_PIPES: &str = r#"to=$1 from=$2; shift 2; exec "$@" 3<"$to" 4>"$from""#;

/// The program: `$CHROMIUM`, else the first of the usual names on the path.
///
/// # Errors
/// Says what to install.
pub fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM").filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        ensure!(named.is_file(), "CHROMIUM names {}, and there is no such file", named.display());
        return Ok(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut places = std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
    places.find(|place| place.is_file()).context(
        "no browser: install Chromium (on Debian: apt install chromium), or name one in CHROMIUM=/path/to/chromium",
    )
}

/// A browser with one page; dropping it kills it.
#[derive(Debug)]
pub struct Browser {
    process: Process,
    to: pipe::Sender,
    from: BufReader<pipe::Receiver>,
    /// The number of the last question.
    asked: u64,
    /// The page's, once there is one.
    session: Option<String>,
    /// What the page did unasked.
    events: Vec<Value>,
    _scratch: Scratch,
}

impl Browser {
    /// Starts it, with a profile of its own and an empty page.
    ///
    /// # Errors
    /// When there is none, or it does not start, with what it said.
    pub async fn start() -> Result<Self> {
        let chromium = program()?;
        let scratch = Scratch::new("browser")?;
        let pipes = ["to", "from"].map(|name| scratch.file(name));
        let made = Command::new("mkfifo").args(&pipes).status().context("cannot run mkfifo: install coreutils")?;
        ensure!(made.success(), "mkfifo made no pipes in {}", scratch.path().display());
        let [to_path, from_path] = &pipes;
        // For both directions each, so that neither waits for the browser to open its end.
        let to = pipe::OpenOptions::new().read_write(true).open_sender(to_path)?;
        let from = pipe::OpenOptions::new().read_write(true).open_receiver(from_path)?;
        let mut profile = std::ffi::OsString::from("--user-data-dir=");
        profile.push(scratch.file("profile"));
        let process = Program::new("Chromium", "sh")
            .args(["-c", WITH_PIPES, "sh"])
            .args([to_path, from_path, &chromium].map(|path| path.as_os_str()))
            .args(FLAGS.iter().copied())
            .args([profile])
            .env("HOME", scratch.path())
            .sweep(scratch.path())
            .start()?;
        let from = BufReader::new(from);
        let mut browser = Self { process, to, from, asked: 0, session: None, events: Vec::new(), _scratch: scratch };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(browser)
    }

    /// Ends it in its own way, which leaves nothing behind.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn close(mut self) -> Result<()> {
        self.session = None;
        self.send("Browser.close", &json!({})).await?;
        self.process.exit_code(ANSWER).await.map(drop)
    }

    /// Goes to `url` and waits until it is loaded.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        let gone = self.call("Page.navigate", json!({"url": url})).await?;
        if let Some(error) = gone["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        self.until("the loaded page", "document.readyState === 'complete'").await.map(drop)
    }

    /// The value of a JavaScript expression on the page, of a promise what it comes to.
    ///
    /// # Errors
    /// When it throws.
    pub async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let question = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", question).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until an expression is true in JavaScript's sense, and returns its value.
    ///
    /// # Errors
    /// Names `what` and the page's text when it does not become so.
    pub async fn until(&mut self, what: &str, expression: &str) -> Result<Value> {
        let seen = poll::until(what, SHOWN, async || match self.evaluate(expression).await {
            Ok(Value::Null | Value::Bool(false)) => None,
            Ok(Value::String(text)) if text.is_empty() => None,
            answer => Some(answer),
        });
        let seen = seen.await;
        match seen {
            Ok(answer) => answer,
            Err(error) => {
                let text = self.evaluate("document.body.innerText").await?;
                let text = text.as_str().unwrap_or_default();
                Err(error.context(format!("the page shows:\n{text}")))
            }
        }
    }

    /// Clicks with the mouse into the middle of the first element that `selector` finds.
    ///
    /// # Errors
    /// When there is none, or something else lies above it.
    pub async fn click(&mut self, selector: &str) -> Result<()> {
        let selector = Value::from(selector);
        let place = self
            .evaluate(&format!(
                "(() => {{ const node = document.querySelector({selector}); if (!node) return null;
                 node.scrollIntoView({{ block: 'center', behavior: 'instant' }});
                 const box = node.getBoundingClientRect();
                 const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
                 return {{ x, y, hit: node.contains(document.elementFromPoint(x, y)) }}; }})()"
            ))
            .await?;
        ensure!(place["hit"] == true, "{selector} cannot be clicked: {place}");
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": place["x"], "y": place["y"], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event).await?;
        }
        Ok(())
    }

    /// Presses Enter.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn press_enter(&mut self) -> Result<()> {
        for (kind, text) in [("keyDown", Some("\r")), ("keyUp", None)] {
            let mut event = json!({"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13});
            if let Some(text) = text {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event).await?;
        }
        Ok(())
    }

    /// Gives the page so many CSS pixels; `phone` also makes it a phone's page, with touch.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn resize(&mut self, width: u32, height: u32, phone: bool) -> Result<()> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", metrics).await?;
        self.call("Emulation.setTouchEmulationEnabled", json!({"enabled": phone})).await.map(drop)
    }

    /// Has the page think that its reader prefers dark, or light.
    ///
    /// # Errors
    /// When the browser is gone.
    pub async fn prefer_dark(&mut self, dark: bool) -> Result<()> {
        let value = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", media).await.map(drop)
    }

    /// A picture of what is in sight, as PNG.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub async fn screenshot(&mut self) -> Result<Vec<u8>> {
        let taken = self.call("Page.captureScreenshot", json!({"format": "png"})).await?;
        Ok(BASE64_STANDARD.decode(taken["data"].as_str().context("no picture")?)?)
    }

    /// The addresses of all that was asked for so far, `data:` left out.
    #[must_use]
    pub fn requests(&self) -> Vec<&str> {
        let urls = self.of("Network.requestWillBeSent").filter_map(|event| event["request"]["url"].as_str());
        urls.filter(|url| !url.starts_with("data:")).collect()
    }

    /// What the page complained of so far: errors and warnings of its console, exceptions, what was not loaded.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let bad = |level: &Value| matches!(level.as_str(), Some("error" | "warning" | "assert"));
        let said = self.of("Runtime.consoleAPICalled").filter(|event| bad(&event["type"]));
        let noted = self.of("Log.entryAdded").filter(|event| bad(&event["entry"]["level"]));
        let failed = self.of("Network.loadingFailed").filter(|event| event["canceled"] != true);
        said.chain(noted).chain(failed).chain(self.of("Runtime.exceptionThrown")).map(Value::to_string).collect()
    }

    fn of<'a>(&'a self, method: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["method"] == method).map(|event| &event["params"])
    }

    async fn send(&mut self, method: &str, params: &Value) -> Result<()> {
        self.asked += 1;
        let mut message = json!({"id": self.asked, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        Ok(self.to.write_all(&bytes).await?)
    }

    /// Asks, and waits for the answer; what else comes is kept.
    async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        let answer = async {
            self.send(method, &params).await?;
            loop {
                let mut message = self.next().await?;
                if message["id"] == self.asked {
                    match message.get("error") {
                        Some(error) => bail!("{method} {params}: {error}"),
                        None => return Ok(message["result"].take()),
                    }
                }
                if message.get("method").is_some() {
                    self.events.push(message);
                }
            }
        };
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(answer) => answer,
            Err(_) => {
                let (code, said) = (self.process.try_exit_code(), self.process.output().join("\n"));
                bail!("Chromium did not answer {method} within {ANSWER:?}; it ended with {code:?} and said:\n{said}")
            }
        }
    }

    async fn next(&mut self) -> Result<Value> {
        let mut message = Vec::new();
        self.from.read_until(0, &mut message).await?;
        message.pop();
        serde_json::from_slice(&message).context("what Chromium said is no JSON")
    }
}
