//! The proxy counts and spoils as it says.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use tests::cluster::control_plane::{ControlPlane, config_of};
use tests::cluster::proxy::{Fault, Proxy};

const SOON: Duration = Duration::from_secs(20);

async fn client(proxy: &Proxy) -> Result<kube::Client> {
    Ok(kube::Client::try_from(config_of(&proxy.kubeconfig()).await?)?)
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).expect("a ConfigMap")
}

#[tokio::test]
async fn one_namespace_looks_like_the_cluster() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let (mine, other) = (plane.namespace("mine").await?, plane.namespace("other").await?);
    let proxy = Proxy::for_namespace(plane, mine.name()).await?;
    for namespace in [&mine, &other] {
        namespace.api::<ConfigMap>().create(&PostParams::default(), &map("a")).await?;
    }
    let seen = Api::<ConfigMap>::all(client(&proxy).await?).list(&ListParams::default()).await?;
    let namespaces: Vec<_> = seen.iter().filter_map(|map| map.metadata.namespace.as_deref()).collect();
    assert_eq!(namespaces, [mine.name()]);
    Ok(())
}

#[tokio::test]
async fn writes_are_counted_and_spoilt() -> Result<()> {
    let plane = ControlPlane::shared().await?;
    let namespace = plane.namespace("spoilt").await?;
    let proxy = Proxy::start(plane).await?;
    let through = Api::<ConfigMap>::namespaced(client(&proxy).await?, namespace.name());
    let straight = namespace.api::<ConfigMap>();
    let create = async |name: &str| through.create(&PostParams::default(), &map(name)).await;

    create("a").await?;
    proxy.spoil(|call| if call.counts() { Fault::Answer(409) } else { Fault::None });
    assert!(matches!(create("b").await, Err(kube::Error::Api(status)) if status.is_conflict()));
    assert!(straight.get_opt("b").await?.is_none());
    proxy.spoil(|_| Fault::LoseAnswer);
    assert!(create("c").await.is_err());
    assert!(straight.get_opt("c").await?.is_some());
    let writes: Vec<_> = proxy.writes(0).into_iter().map(|call| (call.name, call.number, call.status)).collect();
    let own = |name: &str, number, status| (name.to_owned(), number, status);
    assert_eq!(writes, [own("a", 1, Some(201)), own("b", 2, None), own("c", 3, Some(201))]);

    proxy.spoil(|call| if call.number == 4 { Fault::FreezeAfter } else { Fault::None });
    tokio::select! {
        answered = create("d") => panic!("nothing passes, but: {answered:?}"),
        frozen = proxy.wait_until_frozen(SOON) => frozen?,
    }
    tests::poll::until("the write to have arrived", SOON, async || straight.get_opt("d").await.ok()?).await?;
    proxy.thaw();
    create("e").await?;
    Ok(())
}
