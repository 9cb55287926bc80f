use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use super::*;
use crate::observe::tolerant::Tolerant;

fn owner(uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "workload.serving.volcano.sh/v1alpha1".to_owned(),
        kind: "ModelServing".to_owned(),
        name: "llm".to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A revision, which is kept as it is: `number` is what distinguishes its versions.
fn revision(name: &str, uid: &str, version: u64, number: i64) -> ControllerRevision {
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        uid: Some(uid.to_owned()),
        resource_version: Some(version.to_string()),
        owner_references: Some(vec![owner("ms")]),
        ..ObjectMeta::default()
    };
    ControllerRevision { metadata, revision: Some(number), data: Default::default() }
}

/// Name and number of each known revision; a terminating one with a minus.
fn known(store: &Store) -> Vec<(String, i64)> {
    let said = |revision: &Arc<ControllerRevision>| {
        let sign = if revision.metadata.deletion_timestamp.is_some() { -1 } else { 1 };
        (revision.metadata.name.clone().unwrap(), sign * revision.revision.unwrap())
    };
    store.observed("ms").revisions.iter().map(said).collect()
}

fn llm() -> Vec<Key> {
    vec![Key::new("default", "llm")]
}

fn store_with(listed: &[ControllerRevision]) -> Store {
    let store = Store::default();
    store.tell(Told::<ControllerRevision>::ListBegins);
    for revision in listed {
        store.tell(Told::Listed(revision.clone()));
    }
    store.tell(Told::<ControllerRevision>::ListEnds);
    store
}

#[test]
fn what_we_wrote_is_seen_before_the_watch_tells_and_wakes_nobody_then() {
    let store = store_with(&[]);
    store.wrote(revision("a", "1", 5, 1));
    assert_eq!(known(&store), [("a".to_owned(), 1)]);
    assert_eq!(store.tell(Told::Changed(revision("a", "1", 5, 1))), []);
    assert_eq!(store.tell(Told::Changed(revision("a", "1", 6, 2))), llm());
    assert_eq!(known(&store), [("a".to_owned(), 2)]);
}

#[test]
fn a_watch_that_lags_does_not_undo_what_we_wrote() {
    let store = store_with(&[revision("a", "1", 3, 1)]);
    store.wrote(revision("a", "1", 9, 3));
    assert_eq!(store.tell(Told::Changed(revision("a", "1", 7, 2))), []);
    assert_eq!(known(&store), [("a".to_owned(), 3)]);
}

#[test]
fn an_answer_that_comes_after_the_watch_told_of_the_end_raises_no_ghost() {
    let store = store_with(&[]);
    assert_eq!(store.tell(Told::Changed(revision("a", "1", 5, 1))), llm());
    assert_eq!(store.tell(Told::Gone(revision("a", "1", 8, 1))), llm());
    store.wrote(revision("a", "1", 5, 1));
    assert_eq!(known(&store), []);
}

#[test]
fn a_change_that_no_plan_depends_on_wakes_nobody() {
    let store = store_with(&[revision("a", "1", 3, 1)]);
    assert_eq!(store.tell(Told::Changed(revision("a", "1", 4, 1))), []);
}

#[test]
fn what_we_deleted_terminates_whatever_a_lagging_watch_says_until_it_is_gone() {
    let store = store_with(&[revision("a", "1", 3, 1)]);
    store.deleted(ChildKind::ControllerRevision, "1");
    assert_eq!(known(&store), [("a".to_owned(), -1)]);
    store.tell(Told::Changed(revision("a", "1", 4, 2)));
    assert_eq!(known(&store), [("a".to_owned(), -2)]);
    assert_eq!(store.tell(Told::Gone(revision("a", "1", 6, 2))), llm());
    assert_eq!(known(&store), []);
    // The answer to the deletion may be the last to arrive.
    store.deleted(ChildKind::ControllerRevision, "1");
    assert_eq!(known(&store), []);
}

#[test]
fn a_successor_of_the_same_name_is_another_object() {
    let store = store_with(&[revision("a", "1", 3, 1)]);
    store.deleted(ChildKind::ControllerRevision, "1");
    assert_eq!(store.tell(Told::Changed(revision("a", "2", 7, 5))), llm());
    assert_eq!(known(&store), [("a".to_owned(), 5)]);
    assert_eq!(store.tell(Told::Gone(revision("a", "1", 6, 1))), []);
    assert_eq!(known(&store), [("a".to_owned(), 5)]);
    assert_eq!(store.tell(Told::Gone(revision("a", "2", 8, 5))), llm());
    assert_eq!(known(&store), []);
}

#[test]
fn a_list_replaces_what_was_known_but_not_what_we_wrote_since() {
    let store = store_with(&[revision("a", "1", 3, 1), revision("b", "2", 4, 1)]);
    store.tell(Told::<ControllerRevision>::ListBegins);
    store.wrote(revision("c", "3", 12, 1));
    store.wrote(revision("d", "4", 6, 1));
    store.tell(Told::Listed(revision("b", "2", 9, 2)));
    assert_eq!(store.tell(Told::<ControllerRevision>::ListEnds), llm());
    // `d` was gone when the list, at least as new as 9, was made.
    assert_eq!(known(&store), [("b".to_owned(), 2), ("c".to_owned(), 1)]);
    // The next list would have it.
    store.tell(Told::<ControllerRevision>::ListBegins);
    store.tell(Told::<ControllerRevision>::ListEnds);
    assert_eq!(known(&store), []);
    assert_eq!(store.sizes(), [0; 4]);
}

#[test]
fn foreign_objects_are_not_kept_and_one_that_is_let_go_is_forgotten() {
    let store = store_with(&[revision("a", "1", 3, 1)]);
    let mut foreign = revision("x", "9", 4, 1);
    foreign.metadata.owner_references = None;
    assert_eq!(store.tell(Told::Changed(foreign)), []);
    let mut free = revision("a", "1", 5, 1);
    free.metadata.owner_references = None;
    assert_eq!(store.tell(Told::Changed(free)), llm());
    assert_eq!(known(&store), []);
    let mut referenced = revision("y", "8", 6, 1);
    referenced.metadata.owner_references = Some(vec![OwnerReference { controller: None, ..owner("ms") }]);
    assert_eq!(store.tell(Told::Changed(referenced)), []);
}

#[test]
fn an_object_that_the_server_does_not_know_is_forgotten() {
    let store = store_with(&[revision("a", "1", 3, 1)]);
    assert!(store.knows::<ControllerRevision>("ms", "a"));
    store.lost(ChildKind::ControllerRevision, "1");
    assert_eq!(known(&store), []);
}

fn serving(version: &str, spec: &serde_json::Value) -> Tolerant<ModelServing> {
    serde_json::from_value(json!({
        "apiVersion": "workload.serving.volcano.sh/v1alpha1",
        "kind": "ModelServing",
        "metadata": {"name": "llm", "namespace": "default", "uid": "ms", "resourceVersion": version},
        "spec": spec,
    }))
    .unwrap()
}

#[test]
fn a_serving_that_cannot_be_read_is_known_as_such_and_mended_later() {
    let store = Store::default();
    let (good, bad) = (json!({"template": {"roles": []}}), json!({"template": {"roles": "none"}}));
    let key = &llm()[0];
    assert_eq!(store.servings().tell(Told::Changed(serving("1", &bad))), llm());
    assert!(matches!(store.servings().get(key), Some(Serving::Bad { uid, .. }) if uid == "ms"));
    assert_eq!(store.servings().tell(Told::Changed(serving("2", &good))), llm());
    assert!(matches!(store.servings().get(key), Some(Serving::Good(_))));
    assert_eq!(store.servings().tell(Told::Changed(serving("3", &good))), []);
}

#[test]
fn a_serving_whose_status_we_wrote_is_known_with_it_and_one_that_is_gone_stays_gone() {
    let store = Store::default();
    let good = json!({"template": {"roles": []}});
    let answer = |version: &str, replicas: i32| {
        let mut answer = serving(version, &good).object.unwrap();
        answer.status.get_or_insert_default().replicas = replicas;
        answer
    };
    store.servings().tell(Told::Changed(serving("1", &good)));
    store.servings().wrote(answer("4", 2));
    assert_eq!(store.servings().tell(Told::Changed(serving("3", &good))), []);
    let replicas = |store: &Store| match store.servings().get(&llm()[0]) {
        Some(Serving::Good(serving)) => serving.status.clone().map(|status| status.replicas),
        _ => None,
    };
    assert_eq!(replicas(&store), Some(2));
    store.servings().tell(Told::Gone(serving("5", &good)));
    store.servings().wrote(answer("4", 2));
    assert_eq!(replicas(&store), None);
}
