//! Tokenizers and chat templates from files, as models come: `DIR/MODEL/tokenizer.json` and beside it
//! `tokenizer_config.json` and `chat_template.jinja`. A model's name may have slashes.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;
use tracing::info;

use super::asked::Prompt;
use super::cache::{Blocks, Cache, Key, Known};
use super::template::Template;
use super::{Why, chat};
use crate::openai::PromptMembers;

/// The largest file that is read, in bytes; the largest known tokenizer has 40 MB.
const CAP: u64 = 128 << 20;

/// How deep below the directory a model may lie: `ORGANISATION/MODEL`, and one more.
const DEPTH: usize = 3;

/// Special tokens from the end of a prompt that are tried as the end of one that was seen before.
const CUTS: usize = 16;

/// The function by which templates ask for the date: the only thing that they see beside the request.
const DATE: &str = "strftime_now";

/// What is wrong with the files of `--tokenizer-dir`.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It is no tokenizer, or its configuration is none.
    #[error("{}: {cause}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: String,
    },
    /// There is nothing.
    #[error("{} has no MODEL/tokenizer.json: put each model's files into a folder of its name", .0.display())]
    Empty(PathBuf),
}

/// All tokenizers by model.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<String, (Found, Arc<Model>)>);

/// The models' folders and what tells that they changed, without reading their files.
pub(super) type Looked = BTreeMap<String, Found>;

/// A model's folder, and for each of its files inode, length and time; `None` where there is none. Links are
/// followed, so the swap of a mounted ConfigMap's link shows as other inodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    folder: PathBuf,
    files: [Option<(u64, u64, i64, i64)>; 3],
}

/// What one model makes of a prompt.
pub(super) struct Model {
    tokenizer: Tokenizer,
    template: Option<Template>,
    /// Of several templates, the one for requests with tools.
    tool_template: Option<Template>,
    /// Finds the special tokens behind which the text begins anew; none where something looks across.
    cuts: Option<Regex>,
    /// A template asks for the date.
    dated: bool,
    cache: Mutex<Cache>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Model").field("template", &self.template).finish_non_exhaustive()
    }
}

/// Finds the models below `directory`.
pub(super) fn look(directory: &Path) -> Result<Looked, FilesError> {
    let mut models = Looked::new();
    let mut waiting = vec![(directory.to_owned(), String::new(), 0)];
    while let Some((folder, name, depth)) = waiting.pop() {
        if depth > 0 && folder.join("tokenizer.json").is_file() {
            models.insert(name, Found::of(folder)?);
            continue;
        }
        let read = |source| FilesError::Read { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // Hidden ones hold what a ConfigMap's links point to.
            if depth < DEPTH && path.is_dir() && !file.is_empty() && !file.starts_with('.') {
                let name = if name.is_empty() { file.to_owned() } else { format!("{name}/{file}") };
                waiting.push((path, name, depth + 1));
            }
        }
    }
    if models.is_empty() { Err(FilesError::Empty(directory.to_owned())) } else { Ok(models) }
}

impl Found {
    fn of(folder: PathBuf) -> Result<Self, FilesError> {
        let mut files = [None; 3];
        for (place, file) in files.iter_mut().zip(["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]) {
            let path = folder.join(file);
            *place = match std::fs::metadata(&path) {
                Ok(metadata) => Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(source) => return Err(FilesError::Read { path, source }),
            };
        }
        Ok(Self { folder, files })
    }
}

impl Files {
    /// Reads the models that were found; of those that `before` has as they are, nothing is read, and what
    /// they remember stays.
    pub(super) fn read(looked: &Looked, before: &Self) -> Result<Self, FilesError> {
        let model = |(name, found): (&String, &Found)| {
            let known = before.0.get(name).filter(|(known, _)| known == found);
            let model = match known {
                Some((_, model)) => Arc::clone(model),
                None => {
                    let model = Arc::new(Model::open(&found.folder)?);
                    info!(model = name, "A tokenizer was read.");
                    model
                }
            };
            Ok((name.clone(), (found.clone(), model)))
        };
        looked.iter().map(model).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.0.get(name).map(|(_, model)| model)
    }

    /// The models' names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// What is used of `tokenizer_config.json`.
#[derive(Default, Deserialize)]
struct Config {
    chat_template: Option<Templates>,
    added_tokens_decoder: Option<BTreeMap<String, Token>>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(String),
    Added { content: String },
}

impl Token {
    fn content(self) -> String {
        match self {
            Self::Plain(content) | Self::Added { content } => content,
        }
    }
}

impl Model {
    fn open(folder: &Path) -> Result<Self, FilesError> {
        let path = folder.join("tokenizer.json");
        let bytes = read(&path)?.unwrap_or_default();
        let content = |path: &Path, cause: String| FilesError::Content { path: path.to_owned(), cause };
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| content(&path, error.to_string()))?;
        // As transformers does: a prompt is neither cut nor filled up.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| content(&path, error.to_string()))?;
        let json: Value = serde_json::from_slice(&bytes).map_err(|error| content(&path, error.to_string()))?;

        let path = folder.join("tokenizer_config.json");
        let config: Config = match read(&path)? {
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| content(&path, error.to_string()))?,
            None => Config::default(),
        };
        if let Some(missing) = config
            .added_tokens_decoder
            .into_iter()
            .flat_map(BTreeMap::into_values)
            .map(Token::content)
            .find(|token| tokenizer.token_to_id(token).is_none())
        {
            return Err(content(
                &path,
                format!("the token `{missing}` is not in tokenizer.json: save it with transformers"),
            ));
        }
        let tokens = special_tokens(config.rest);
        let mut dated = false;
        let mut compile = |source: &str| {
            dated |= source.contains(DATE);
            Template::new(source, &tokens).map_err(|error| content(folder, format!("the chat template: {error}")))
        };
        let (mut template, mut tool_template) = (None, None);
        match config.chat_template {
            Some(Templates::One(source)) => template = Some(compile(&source)?),
            Some(Templates::Named(all)) => {
                for Named { name, template: source } in all {
                    match name.as_str() {
                        "default" => template = Some(compile(&source)?),
                        "tool_use" => tool_template = Some(compile(&source)?),
                        _ => {}
                    }
                }
            }
            None => {}
        }
        let path = folder.join("chat_template.jinja");
        if let Some(source) = read(&path)? {
            let source = String::from_utf8(source).map_err(|error| content(&path, error.to_string()))?;
            (template, tool_template) = (Some(compile(&source)?), None);
        }
        let cuts = if begins_anew(&json) { cuts(&tokenizer) } else { None };
        Ok(Self { tokenizer, template, tool_template, cuts, dated, cache: Mutex::default() })
    }

    /// What a request with these members is known by, `now`.
    pub(super) fn key(&self, body: &[u8], members: &PromptMembers, now: SystemTime) -> Key {
        // Templates can ask for no more of the time than its day.
        let day = || now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / (24 * 60 * 60));
        Key::of_request(body, members, self.dated.then(day))
    }

    /// What is remembered of the request of that key, with the keys of these blocks.
    pub(super) fn known(&self, key: Key, blocks: &Blocks) -> Option<Known> {
        let known = self.cache.lock().get(key)?;
        let Some(hashed) = known.hashed(blocks) else { return Some(known) };
        self.cache.lock().put(key, &hashed);
        Some(hashed)
    }

    /// The ids of a prompt and the keys of these blocks, remembered under `key`. Takes as long as the prompt is
    /// long.
    pub(super) fn tokenize(
        &self,
        prompt: Prompt,
        salt: Option<Arc<str>>,
        blocks: &Blocks,
        key: Option<Key>,
    ) -> Result<Known, Why> {
        let known = Known { salt, ..Known::bare(self.ids(prompt)?) };
        let known = known.hashed(blocks).unwrap_or(known);
        if let Some(key) = key {
            self.cache.lock().put(key, &known);
        }
        Ok(known)
    }

    fn ids(&self, prompt: Prompt) -> Result<Arc<[u32]>, Why> {
        let (text, special_tokens) = match prompt {
            Prompt::Ids(ids) => return Ok(ids.into()),
            Prompt::Text { text, special_tokens } => (text, special_tokens),
            Prompt::Chat(chat) => {
                let tools = self.tool_template.as_ref().filter(|_| chat.tools.is_some());
                let template = tools.or(self.template.as_ref());
                let template = template.ok_or_else(|| Why::Template("the model has none".to_owned()))?;
                let special_tokens = chat.special_tokens;
                (chat::render(chat, template)?, special_tokens)
            }
        };
        let ids = if special_tokens { self.encode(&text, true)? } else { self.encode_behind_cut(&text)? };
        Ok(ids.into())
    }

    /// Encodes what is new behind the last special token up to which the text was seen before.
    fn encode_behind_cut(&self, text: &str) -> Result<Vec<u32>, Why> {
        let mut ends = VecDeque::with_capacity(CUTS);
        for cut in self.cuts.iter().flat_map(|cuts| cuts.find_iter(text)) {
            if ends.len() == CUTS {
                ends.pop_front();
            }
            ends.push_back(cut.end());
        }
        let keys = Key::of_text(text, ends.make_contiguous());
        let mut ends = ends.into_iter().zip(keys).rev();
        let last = ends.next();
        let known = last.into_iter().chain(ends).find_map(|(end, key)| Some((end, self.cache.lock().get(key)?)));
        let (mut from, mut ids) = known.map_or((0, Vec::new()), |(end, known)| (end, known.ids.to_vec()));
        if let Some((last, key)) = last.filter(|(last, _)| *last > from) {
            ids.extend(self.encode(text.get(from..last).unwrap_or_default(), false)?);
            self.cache.lock().put(key, &Known::bare(ids.as_slice().into()));
            from = last;
        }
        ids.extend(self.encode(text.get(from..).unwrap_or_default(), false)?);
        Ok(ids)
    }

    fn encode(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, Why> {
        let encoding = self.tokenizer.encode_fast(text, special_tokens);
        Ok(encoding.map_err(|error| Why::Tokenizer(error.to_string()))?.get_ids().to_vec())
    }
}

/// The bytes of a file; `None` where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, FilesError> {
    let fail = |source| FilesError::Read { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(error)),
        Ok(metadata) if metadata.len() > CAP => {
            Err(FilesError::Content { path: path.to_owned(), cause: format!("more than {CAP} bytes") })
        }
        Ok(_) => std::fs::read(path).map(Some).map_err(fail),
    }
}

/// `bos_token` and the like, which templates use by name.
fn special_tokens(config: BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let token = |(name, value): (String, Value)| {
        let token = name.ends_with("_token").then(|| serde_json::from_value::<Token>(value).ok()).flatten()?;
        Some((name, token.content()))
    };
    config.into_iter().filter_map(token).collect()
}

/// Whether the tokenizer treats the text behind a special token as if nothing were before it, and as it
/// treats the beginning of a text: byte-level ones without an added space do.
fn begins_anew(tokenizer: &Value) -> bool {
    let kind = |value: &Value| value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let null = Value::Null;
    let normalizer = tokenizer.get("normalizer").unwrap_or(&null);
    let same_everywhere = normalizer.is_null() || ["NFC", "NFD", "NFKC", "NFKD"].contains(&kind(normalizer).as_str());
    let mut byte_level = false;
    let mut waiting = vec![tokenizer.get("pre_tokenizer").unwrap_or(&null)];
    while let Some(part) = waiting.pop() {
        match kind(part).as_str() {
            "Sequence" => waiting.extend(part.get("pretokenizers").and_then(Value::as_array).into_iter().flatten()),
            "ByteLevel" if part.get("add_prefix_space") != Some(&Value::Bool(false)) => return false,
            "ByteLevel" => byte_level = true,
            "Split" | "Digits" | "Punctuation" => {}
            _ => return false,
        }
    }
    same_everywhere && byte_level
}

/// Special tokens that end whatever is before them, wherever they stand; found in one pass over a text, as some
/// tokenizers have hundreds.
fn cuts(tokenizer: &Tokenizer) -> Option<Regex> {
    let all = tokenizer.get_added_tokens_decoder();
    let tokens: Vec<String> = all
        .values()
        .filter(|token| token.special && !(token.lstrip || token.rstrip || token.single_word || token.normalized))
        .filter(|token| !token.content.is_empty())
        .filter(|token| all.values().filter(|other| other.content.contains(&token.content)).count() == 1)
        .map(|token| regex::escape(&token.content))
        .collect();
    (!tokens.is_empty()).then(|| Regex::new(&tokens.join("|")).ok()).flatten()
}
