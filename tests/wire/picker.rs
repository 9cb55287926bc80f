//! A picker in this process: the real service on a port of its own, over a fleet declared in code.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kthena_ext_proc::args::TlsMode;
use kthena_ext_proc::fleet::Fleet;
use kthena_ext_proc::listen::connections;
use kthena_ext_proc::observer::Observer;
use kthena_ext_proc::pools::AuthorityLayer;
use kthena_ext_proc::service::{Service, Settings};
use scheduling::{
    Declared, DeclaredEndpoint, DeclaredPool, EngineKind, Event, KvConnector, ModelRoute, ModelServer, PoolName,
    Profile, Rule, Target,
};
use tests::poll;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub(crate) struct Picker {
    pub(crate) address: SocketAddr,
    pub(crate) fleet: Arc<Fleet>,
    service: Service,
    /// Ends with the picker.
    tasks: JoinSet<()>,
}

impl Picker {
    /// A picker whose only pool has these endpoints.
    pub(crate) async fn over(endpoints: &[&str]) -> Self {
        Self::start(Settings::default(), declared(&[pool("default", "llama", endpoints)])).await
    }

    pub(crate) async fn start(settings: Settings, declared: Declared) -> Self {
        let fleet = Arc::new(Fleet::new(Profile::default()));
        fleet.apply(Event::Declared(declared));
        let service = Service::new(settings, Arc::clone(&fleet), Observer::default());
        let mut tasks = JoinSet::new();
        let (holder, held) = (service.holder(), Arc::clone(&fleet));
        tasks.spawn(async move { holder.run(&held, CancellationToken::new()).await });
        let mut picker = Self { address: ([127, 0, 0, 1], 0).into(), fleet, service, tasks };
        picker.address = picker.listen(None).await;
        picker
    }

    /// Opens a further port, which may be bound to a pool.
    pub(crate) async fn listen(&mut self, pool: Option<PoolName>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = pool.map_or_else(|| self.service.clone(), |pool| self.service.bound_to(pool));
        let server = Server::builder()
            .layer(AuthorityLayer)
            .add_service(service.into_server())
            .serve_with_incoming(connections(listener, None, TlsMode::Off));
        self.tasks.spawn(async move { server.await.unwrap() });
        address
    }

    /// What each endpoint has in flight, in the order of addresses.
    pub(crate) fn in_flight(&self) -> Vec<u32> {
        let snapshot = self.fleet.snapshot();
        let endpoints = snapshot.pools.values().flat_map(|pool| pool.endpoints.iter());
        endpoints.map(|endpoint| endpoint.load.requests()).collect()
    }

    pub(crate) async fn comes_to(&self, in_flight: &[u32]) {
        let what = format!("in flight {in_flight:?}");
        let look = async || (self.in_flight() == in_flight).then_some(());
        if let Err(error) = poll::until(&what, Duration::from_secs(5), look).await {
            panic!("{error}, but {:?}", self.in_flight());
        }
    }
}

pub(crate) fn declared(pools: &[DeclaredPool]) -> Declared {
    Declared { pools: pools.to_vec(), ..Declared::default() }
}

pub(crate) fn pool(namespace: &str, name: &str, endpoints: &[&str]) -> DeclaredPool {
    let endpoints = endpoints.iter().enumerate().map(|(index, address)| DeclaredEndpoint {
        address: address.parse().unwrap(),
        name: format!("{namespace}/{name}-{index}").into(),
        labels: Arc::new(BTreeMap::from([("app".to_owned(), name.to_owned())])),
        ready: true,
        engine: EngineKind::Vllm,
    });
    DeclaredPool { name: PoolName::new(namespace, name), picker: None, endpoints: endpoints.collect() }
}

/// A fleet in which requests for `model` are served by one endpoint under the name `real`.
pub(crate) fn with_rewrite(endpoint: &str, model: &str, real: &str) -> Declared {
    let name: Arc<str> = "default/server".into();
    let target = Target { model_server: Arc::clone(&name), weight: 100 };
    let server = ModelServer {
        name,
        model: Some(real.into()),
        engine: EngineKind::Vllm,
        selector: BTreeMap::from([("app".to_owned(), "llama".to_owned())]),
        port: Some(8000),
        pd_group: None,
        connector: KvConnector::default(),
    };
    let route = ModelRoute {
        name: "default/route".into(),
        created: None,
        model: Some(model.into()),
        adapters: Vec::new(),
        rules: vec![Rule { targets: vec![target], ..Rule::default() }],
    };
    let pools = vec![pool("default", "llama", &[endpoint])];
    Declared { pools, model_servers: vec![server], model_routes: vec![route], ..Declared::default() }
}
