//! The prompt as the engine will see it: token ids, equal to vLLM's, or none and why.
//!
//! ```text
//! body ──> ids in it ───────────────────────────────┐
//!      ──> known from before ───────────────────────┤
//!      ──> chat template ──> tokenizer (cached) ────┼──> Tokens
//!      ──> the engine's own /tokenize ──────────────┘
//! ```
//!
//! An id that is wrong is worse than none: what is not certainly the same in the engine (images, a
//! template of the request's own, several prompts) has no ids here, and prompts are then compared
//! approximately.

mod asked;
mod cache;
mod chat;
mod engine;
mod files;
mod format;
mod metrics;
mod python;
mod reload;
mod template;
mod whose;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use scheduling::PromptKeys;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::openai::PromptMembers;
use asked::{Asked, Prompt};
use cache::{Key, Known};
use engine::EngineTokenizer;
use files::Model;
use reload::Reloaded;

pub use cache::Blocks;
pub use files::FilesError;
pub use metrics::TokenMetrics;
pub use reload::TokenizerStatus;
pub use whose::{Asking, InTokens, Whose, is_wanted};

/// How long a prompt may take from here to its ids, waiting included: less than the 200 ms that Envoy waits
/// for an answer if nobody tells it otherwise.
const DEADLINE: Duration = Duration::from_millis(150);

/// Prompts that wait to be tokenized; more go without.
const WAITING: usize = 64;

/// Where ids came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The client sent them.
    Request,
    /// The same prompt was tokenized before.
    Cache,
    /// Tokenized in this process.
    Local,
    /// An engine tokenized them.
    Engine,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Request, Self::Cache, Self::Local, Self::Engine];

    /// As metrics and reports call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Cache => "cache",
            Self::Local => "local",
            Self::Engine => "engine",
        }
    }
}

/// A prompt's token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// In order, from the first.
    pub ids: Arc<[u32]>,
    /// The request's `cache_salt`, which keeps its blocks apart from others'.
    pub salt: Option<Arc<str>>,
    /// The keys of its blocks, for whom they were made already; among them all that were asked for where the ids
    /// came from [`Source::Cache`] or [`Source::Local`].
    pub keys: Arc<[PromptKeys]>,
    /// Where they came from.
    pub source: Source,
}

/// Why there are no ids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The request has no prompt that ids could be for.
    #[error("the request has no prompt of text")]
    NoPrompt,
    /// More than one sequence.
    #[error("the request has several prompts")]
    Several,
    /// What the engine makes of it cannot be known here.
    #[error("`{0}` changes the prompt in ways that only the engine knows")]
    Unknowable(&'static str),
    /// Neither files nor an engine to ask.
    #[error("no tokenizer for the model: put its tokenizer.json below --tokenizer-dir")]
    NoTokenizer,
    /// The chat template refused the messages, or is beyond this renderer.
    #[error("the chat template failed: {0}")]
    Template(String),
    /// The tokenizer failed.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// Too many at once.
    #[error("{WAITING} prompts wait to be tokenized already")]
    Busy,
    /// Too slow.
    #[error("not tokenized within {} ms", DEADLINE.as_millis())]
    Deadline,
    /// An engine was asked and did not say.
    #[error("the engine's /tokenize: {0}")]
    Engine(String),
}

impl Why {
    /// Every [`name`](Self::name).
    pub const NAMES: [&'static str; 9] =
        ["no_prompt", "several", "unknowable", "no_tokenizer", "template", "tokenizer", "busy", "deadline", "engine"];

    /// As metrics call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoPrompt => "no_prompt",
            Self::Several => "several",
            Self::Unknowable(_) => "unknowable",
            Self::NoTokenizer => "no_tokenizer",
            Self::Template(_) => "template",
            Self::Tokenizer(_) => "tokenizer",
            Self::Busy => "busy",
            Self::Deadline => "deadline",
            Self::Engine(_) => "engine",
        }
    }
}

/// Turns prompts into token ids.
#[derive(Debug)]
pub struct Tokenizers {
    files: Arc<Reloaded>,
    engine: EngineTokenizer,
    metrics: Arc<TokenMetrics>,
    /// Prompts that are being tokenized: as many as there are processors.
    work: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Tokenizers {
    /// With the tokenizers below `directory`, if there is one.
    ///
    /// # Errors
    /// [`FilesError`], which names the file.
    pub fn open(directory: Option<&Path>, metrics: Arc<TokenMetrics>) -> Result<Self, FilesError> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            files: Arc::new(Reloaded::open(directory)?),
            engine: EngineTokenizer::new(),
            metrics,
            work: Arc::new(Semaphore::new(processors)),
            waiting: Semaphore::new(WAITING + processors),
        })
    }

    /// Follows the directory, for ever, and keeps the last good state; `failed` is called once for each
    /// different error.
    pub fn follow<F>(&self, failed: F) -> impl Future<Output = ()> + Send + use<F>
    where
        F: Fn() + Send + Sync + 'static,
    {
        Arc::clone(&self.files).follow(failed)
    }

    /// What is in use, and how the last reading went.
    #[must_use]
    pub fn status(&self) -> Arc<TokenizerStatus> {
        self.files.status()
    }

    /// The token ids of the request with this body.
    ///
    /// # Errors
    /// [`Why`] there are none.
    pub async fn ids(&self, body: &[u8], whose: &Whose) -> Result<Tokens, Why> {
        self.tokens(body, PromptMembers::find(body).as_ref(), whose, &Blocks::default()).await
    }

    /// The token ids of the request with this body, and the keys of these blocks. With
    /// `members`, a prompt that was seen before has them without waiting.
    ///
    /// # Errors
    /// [`Why`] there are none.
    pub async fn tokens(
        &self,
        body: &[u8],
        members: Option<&PromptMembers>,
        whose: &Whose,
        blocks: &Blocks,
    ) -> Result<Tokens, Why> {
        let tokens = match timeout(DEADLINE, self.find(body, members, whose, blocks)).await {
            Ok(tokens) => tokens,
            Err(_) => Err(Why::Deadline),
        };
        match &tokens {
            Ok(tokens) => self.metrics.found(tokens.source),
            Err(why) => self.metrics.missing(why),
        }
        tokens
    }

    async fn find(
        &self,
        body: &[u8],
        members: Option<&PromptMembers>,
        whose: &Whose,
        blocks: &Blocks,
    ) -> Result<Tokens, Why> {
        let model = {
            let files = self.files.files();
            whose.models.iter().find_map(|name| files.model(name).cloned())
        };
        let key = model.as_ref().zip(members).map(|(model, members)| model.key(body, members, SystemTime::now()));
        if let Some((key, model)) = key.zip(model.as_ref())
            && let Some(known) = model.known(key, blocks)
        {
            return Ok(known.into_tokens(Source::Cache));
        }
        let Asked { prompt, salt, engine_agrees } = Asked::parse(body)?;
        let local = match (prompt, model) {
            (Prompt::Ids(ids), _) => {
                Ok(Known { salt: salt.clone(), ..Known::bare(ids.into()) }.into_tokens(Source::Request))
            }
            (Prompt::Text { .. } | Prompt::Chat(_), None) => Err(Why::NoTokenizer),
            (prompt, Some(model)) => self.tokenize(prompt, salt.clone(), blocks, key, model).await,
        };
        match (local, whose.engine) {
            // A template or tokenizer of which this process is not a master: the engine is.
            (Err(Why::NoTokenizer | Why::Template(_) | Why::Tokenizer(_)), Some(engine)) if engine_agrees => {
                let ids = self.engine.ids(engine, body).await?;
                Ok(Known { salt, ..Known::bare(ids) }.into_tokens(Source::Engine))
            }
            (local, _) => local,
        }
    }

    /// Off the threads that serve streams.
    async fn tokenize(
        &self,
        prompt: Prompt,
        salt: Option<Arc<str>>,
        blocks: &Blocks,
        key: Option<Key>,
        model: Arc<Model>,
    ) -> Result<Tokens, Why> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Why::Busy)?;
        let turn = Arc::clone(&self.work).acquire_owned().await.map_err(|_| Why::Busy)?;
        let blocks = blocks.clone();
        let work = move || {
            let known = model.tokenize(prompt, salt, &blocks, key);
            drop(turn);
            known
        };
        let known = tokio::task::spawn_blocking(work).await.map_err(|error| Why::Tokenizer(error.to_string()))?;
        known.map(|known| known.into_tokens(Source::Local))
    }
}

impl Known {
    fn into_tokens(self, source: Source) -> Tokens {
        let Self { ids, salt, keys } = self;
        Tokens { ids, salt, keys, source }
    }
}

#[cfg(test)]
mod tests;
