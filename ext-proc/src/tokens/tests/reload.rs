//! Files that change.

use std::cell::Cell;
use std::os::unix::fs::symlink;

use super::*;
use crate::tokens::reload::Reloaded;

/// Looks once; how many failures were told.
fn poll(tokenizers: &Tokenizers) -> usize {
    let failures = Cell::new(0);
    Reloaded::poll(&tokenizers.files, &|| failures.set(failures.get() + 1));
    failures.get()
}

/// The ids of a short chat with the model `tiny`.
async fn chat(tokenizers: &Tokenizers) -> Vec<u32> {
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    ids_of(tokenizers, "tiny", body).await.unwrap()
}

#[tokio::test]
async fn a_changed_template_is_taken_into_use_and_what_has_not_changed_is_not_read_again() {
    let directory = Directory::new("changed");
    let tokenizers = directory.open().unwrap();
    let before = chat(&tokenizers).await;
    let parts = |tokenizers: &Tokenizers| Arc::as_ptr(tokenizers.files.files().model("org/parts").unwrap());
    let same = parts(&tokenizers);
    directory.write("tiny/chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
    directory.write("new/tokenizer.json", &tokenizer().to_string());
    assert_eq!(poll(&tokenizers), 0);
    assert_ne!(chat(&tokenizers).await, before);
    assert_eq!(chat(&tokenizers).await, ids("hi"));
    assert_eq!(parts(&tokenizers), same);
    assert_eq!(tokenizers.status().models, ["new", "org/parts", "tiny"]);
    fs::remove_dir_all(directory.0.join("new")).unwrap();
    assert_eq!(poll(&tokenizers), 0);
    assert_eq!(tokenizers.status().models, ["org/parts", "tiny"]);
}

#[tokio::test]
async fn what_cannot_be_used_is_told_once_and_leaves_the_last_good_state() {
    let directory = Directory::new("kept");
    let tokenizers = directory.open().unwrap();
    let before = chat(&tokenizers).await;
    directory.write("tiny/chat_template.jinja", "{% if %}");
    assert_eq!(poll(&tokenizers), 1);
    assert_eq!(poll(&tokenizers), 0);
    assert_eq!(chat(&tokenizers).await, before);
    let status = tokenizers.status();
    assert!(status.last_error.as_ref().unwrap().contains("tiny: the chat template"), "{status:?}");
    assert_eq!(status.models, ["org/parts", "tiny"]);
    fs::remove_file(directory.0.join("tiny/chat_template.jinja")).unwrap();
    assert_eq!(poll(&tokenizers), 0);
    assert_eq!(tokenizers.status().last_error, None);
    // All of them gone is no state to take into use, and their return is noticed.
    for folder in ["tiny", "org"] {
        fs::remove_dir_all(directory.0.join(folder)).unwrap();
    }
    assert_eq!(poll(&tokenizers), 1);
    assert_eq!(chat(&tokenizers).await, before);
    directory.write("tiny/tokenizer.json", &tokenizer().to_string());
    directory.write("tiny/chat_template.jinja", TEMPLATE);
    assert_eq!(poll(&tokenizers), 0);
    assert_eq!((chat(&tokenizers).await, tokenizers.status().models.len()), (before, 1));
}

/// A volume as the kubelet mounts it: files are links into `..data`, a link to a folder with a name of its own,
/// which is replaced at once. `version` names that folder.
fn mount(directory: &Directory, version: &str, template: &str) {
    let volume = directory.0.join("tiny");
    let data = format!("tiny/..{version}");
    directory.write(&format!("{data}/tokenizer.json"), &tokenizer().to_string());
    directory.write(&format!("{data}/chat_template.jinja"), template);
    symlink(format!("..{version}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for file in ["tokenizer.json", "chat_template.jinja"] {
        // There already, after the first time.
        let _ = symlink(format!("..data/{file}"), volume.join(file));
    }
}

#[tokio::test]
async fn a_mounted_config_map_is_read_again_when_its_link_moves() {
    let directory = Directory::new("mounted");
    fs::remove_dir_all(directory.0.join("tiny")).unwrap();
    mount(&directory, "2026_01", "{% for m in messages %}{{ m.content }}{% endfor %}");
    let tokenizers = directory.open().unwrap();
    assert_eq!(tokenizers.status().models, ["org/parts", "tiny"], "..data is no model");
    assert_eq!(chat(&tokenizers).await, ids("hi"));
    mount(&directory, "2026_02", "{% for m in messages %}{{ m.role }}{% endfor %}");
    fs::remove_dir_all(directory.0.join("tiny/..2026_01")).unwrap();
    assert_eq!(poll(&tokenizers), 0);
    assert_eq!(chat(&tokenizers).await, ids("user"));
}
