//! A folder of manifests, as a picker's `--config-dir` takes it: every `*.yaml`, `*.yml` and `*.json`, documents and
//! lists.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::LARGEST;
use crate::doctor::facts::Facts;

const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

pub(super) fn read(folder: &Path, facts: &mut Facts) {
    let files = match files(folder) {
        Ok(files) => files,
        Err(error) => {
            let fix = "name a folder of manifests with --config-dir";
            return facts.unreadable(format!("folder {}", folder.display()), error.to_string(), fix);
        }
    };
    for file in files {
        match text(&file).and_then(|text| documents(&text)) {
            Ok(documents) => documents.into_iter().flat_map(flat).for_each(|object| facts.add(object)),
            Err(problem) => {
                let fix = "mend the file; until then a picker keeps what it has read before";
                facts.unreadable(format!("file {}", file.display()), problem, fix);
            }
        }
    }
    facts.tell_engines();
}

fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    let named = |path: &PathBuf| {
        path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending))
    };
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(named).collect();
    files.sort();
    Ok(files)
}

/// A file's text; not of one that is larger than anybody wrote.
pub(super) fn text(file: &Path) -> Result<String, String> {
    let size = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if size > LARGEST as u64 {
        return Err(format!("it has {size} bytes, and at most {LARGEST} are read"));
    }
    std::fs::read_to_string(file).map_err(|error| error.to_string())
}

/// A file with one document; JSON is YAML too.
pub(super) fn document(text: &str) -> Result<Value, String> {
    let mut documents = documents(text)?;
    match documents.pop() {
        Some(document) if documents.is_empty() => Ok(document),
        Some(_) => Err("it has several documents, and one is expected".to_owned()),
        None => Err("it is empty".to_owned()),
    }
}

fn documents(text: &str) -> Result<Vec<Value>, String> {
    // A dump of a large cluster is one, and this is faster by far.
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(vec![value]);
    }
    // Room for a dump of a large cluster in one list; the other limits are the library's.
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_nodes: 8_000_000, max_events: 24_000_000 },
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| error.to_string())
}

/// The objects of a list, each with its kind.
fn flat(document: Value) -> Vec<Value> {
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let Some(items) = document.get("items").and_then(Value::as_array).filter(|_| kind.ends_with("List")) else {
        return vec![document];
    };
    // Those of a `PodList` need not name their kind.
    let of = kind.trim_end_matches("List");
    items.iter().cloned().map(|item| named(item, &version, of)).collect()
}

/// The object, with this version and kind where it names none.
pub(super) fn named(mut object: Value, version: &str, kind: &str) -> Value {
    if let Some(fields) = object.as_object_mut() {
        for (field, value) in [("apiVersion", version), ("kind", kind)] {
            if fields.get(field).is_none_or(Value::is_null) {
                fields.insert(field.to_owned(), value.into());
            }
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_become_objects_with_their_kinds() {
        let text = "# nothing\n---\nkind: Pod\napiVersion: v1\n---\napiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n";
        let kinds: Vec<Value> = documents(text).unwrap().into_iter().flat_map(flat).collect();
        assert_eq!(kinds.len(), 2, "{kinds:?}");
        assert!(kinds.iter().all(|object| object["kind"] == "Pod" && object["apiVersion"] == "v1"), "{kinds:?}");
        assert_eq!(documents(r#" {"kind": "Pod"}"#).unwrap().len(), 1);
        assert!(documents("a: [").unwrap_err().contains("line"), "an error says where");
        assert!(document("").is_err());
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_fact() {
        let mut facts = Facts::default();
        read(Path::new("/nowhere/at/all"), &mut facts);
        assert_eq!(facts.unreadable.len(), 1);
    }
}
