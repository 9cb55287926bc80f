//! Several pools in one process.

use std::collections::HashMap;

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use kthena_ext_proc::service::Settings;
use scheduling::{Declared, DeclaredPool, PoolName};

use crate::envoy::{Stream, connect, connect_as};
use crate::messages::*;
use crate::picker::{Picker, declared, pool};

const LLAMA: &str = "127.0.0.1:8000";
const QWEN: &str = "127.0.0.2:8000";

fn two() -> Declared {
    let llama = DeclaredPool { picker: Some(("llama-epp".into(), Some(9002))), ..pool("a", "llama", &[LLAMA]) };
    let qwen = DeclaredPool { picker: Some(("qwen-epp".into(), Some(9002))), ..pool("b", "qwen", &[QWEN]) };
    declared(&[llama, qwen])
}

async fn answer(mut envoy: Stream) -> String {
    envoy.say(first(FULL_DUPLEX, NONE, &[], true)).await;
    envoy.destination().await
}

#[tokio::test]
async fn the_authority_tells_the_pool() {
    let picker = Picker::start(Settings::default(), two()).await;
    for (authority, expected) in [("llama-epp.a.svc:9002", LLAMA), ("qwen-epp.b.svc.cluster.local:9002", QWEN)] {
        let channel = connect_as(picker.address, authority).await;
        assert_eq!(answer(Stream::on(&channel, &[]).await).await, expected);
    }
}

#[tokio::test]
async fn pools_of_one_name_are_told_apart_by_the_namespace_in_the_authority() {
    let llama = |namespace: &str, engine: &str| DeclaredPool {
        picker: Some(("llama-epp".into(), Some(9002))),
        ..pool(namespace, "llama", &[engine])
    };
    let picker = Picker::start(Settings::default(), declared(&[llama("a", LLAMA), llama("b", QWEN)])).await;
    for (namespace, expected) in [("a", LLAMA), ("b", QWEN)] {
        for authority in [format!("llama-epp.{namespace}.svc:9002"), format!("llama-epp.{namespace}.svc.cluster.local")]
        {
            let channel = connect_as(picker.address, &authority).await;
            assert_eq!(answer(Stream::on(&channel, &[]).await).await, expected, "{authority}");
        }
    }
}

#[tokio::test]
async fn the_port_tells_the_pool() {
    let mut picker = Picker::start(Settings::default(), two()).await;
    let llama = picker.listen(Some(PoolName::new("a", "llama"))).await;
    let qwen = picker.listen(Some(PoolName::new("b", "qwen"))).await;
    assert_eq!(answer(Stream::open(llama).await).await, LLAMA);
    assert_eq!(answer(Stream::open(qwen).await).await, QWEN);
}

#[tokio::test]
async fn metadata_tells_the_pool() {
    let picker = Picker::start(Settings::default(), two()).await;
    let channel = connect(picker.address).await;
    for (name, expected) in [("llama", LLAMA), ("b/qwen", QWEN)] {
        assert_eq!(answer(Stream::on(&channel, &[("x-kthena-pool", name)]).await).await, expected);
    }
}

#[tokio::test]
async fn an_attribute_tells_the_pool() {
    let picker = Picker::start(Settings::default(), two()).await;
    for (attribute, name, expected) in [("xds.cluster_name", "a/llama", LLAMA), ("xds.route_name", "qwen", QWEN)] {
        let value = Value { kind: Some(Kind::StringValue(name.to_owned())) };
        let fields = Struct { fields: HashMap::from([(attribute.to_owned(), value)]) };
        let mut message = first(FULL_DUPLEX, NONE, &[], true);
        message.attributes = HashMap::from([("envoy.filters.http.ext_proc".to_owned(), fields)]);
        let mut envoy = Stream::open(picker.address).await;
        envoy.say(message).await;
        assert_eq!(envoy.destination().await, expected);
    }
}

#[tokio::test]
async fn the_configured_pool_is_the_only_one() {
    let settings = Settings { pool: Some(PoolName::new("b", "qwen")), ..Settings::default() };
    let picker = Picker::start(settings, two()).await;
    let channel = connect_as(picker.address, "llama-epp.a.svc:9002").await;
    assert_eq!(answer(Stream::on(&channel, &[]).await).await, QWEN);
}

#[tokio::test]
async fn a_stream_that_names_no_pool_is_told_what_to_configure() {
    let picker = Picker::start(Settings::default(), two()).await;
    let mut envoy = Stream::open(picker.address).await;
    envoy.say(first(FULL_DUPLEX, NONE, &[], true)).await;
    let (status, error) = envoy.refusal().await;
    assert_eq!((status, &error["error"]["code"]), (503, &"unknown_pool".into()));
    assert!(error["error"]["message"].as_str().unwrap().contains("--pool-port"), "{error}");
}
