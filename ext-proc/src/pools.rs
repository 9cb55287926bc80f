//! Which pool a stream is about. The first thing that names one decides:
//!
//! 1. the pool that the process or the listening port was bound to,
//! 2. the stream's gRPC metadata `x-kthena-pool`, which a gateway's configuration sets,
//! 3. the stream's attributes `xds.cluster_name` and `xds.route_name`,
//! 4. the stream's `:authority`, as the picker Service that an InferencePool names,
//! 5. the only pool that there is.

use std::task::{Context, Poll};

use http::uri::Authority;
use scheduling::{Pool, PoolName, RefusalKind, Snapshot};

/// gRPC metadata that names the pool, as `namespace/name` or as `name`.
pub const POOL_METADATA: &str = "x-kthena-pool";

/// What a stream says about itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints<'a> {
    /// The pool that was configured for this listener or process.
    pub bound: Option<&'a PoolName>,
    /// The value of [`POOL_METADATA`].
    pub metadata: Option<&'a str>,
    /// `xds.cluster_name` and `xds.route_name`, as far as they were sent.
    pub attributes: [Option<&'a str>; 2],
    /// `:authority` of the gRPC request.
    pub authority: Option<&'a Authority>,
}

/// The pool that a stream is about.
///
/// # Errors
/// [`RefusalKind::UnknownPool`], with what to configure.
pub fn find(snapshot: &Snapshot, hints: Hints<'_>) -> Result<PoolName, RefusalKind> {
    if let Some(bound) = hints.bound {
        return Ok(bound.clone());
    }
    if let Some(name) = hints.metadata {
        return named(snapshot, name).map(|pool| pool.name.clone()).ok_or_else(|| {
            RefusalKind::UnknownPool(format!("gRPC metadata `{POOL_METADATA}` says `{name}`, and no such pool exists"))
        });
    }
    if let Some(pool) = hints.attributes.into_iter().flatten().find_map(|name| named(snapshot, name)) {
        return Ok(pool.name.clone());
    }
    if let Some(pool) = hints.authority.and_then(|authority| by_picker(snapshot, authority)) {
        return Ok(pool.name.clone());
    }
    match one(snapshot.pools.values()) {
        Some(pool) => Ok(pool.name.clone()),
        None if snapshot.pools.is_empty() => Err(RefusalKind::UnknownPool("no InferencePool is declared".to_owned())),
        None => Err(RefusalKind::UnknownPool(format!(
            "{} pools are declared and nothing tells which one: start with `--pool-name` or `--pool-port`, \
             set gRPC metadata `{POOL_METADATA}`, or let the gRPC authority be the pool's picker Service",
            snapshot.pools.len()
        ))),
    }
}

/// The pool that an Envoy's cluster is about: the one that its name names, else the one that the process is `bound` to,
/// else the only pool that there is.
#[must_use]
pub fn of_cluster<'a>(snapshot: &'a Snapshot, name: &str, bound: Option<&PoolName>) -> Option<&'a Pool> {
    let only = || one(snapshot.pools.values().map(AsRef::as_ref));
    match (named(snapshot, name), bound) {
        (Some(pool), _) => Some(pool),
        // Whoever writes a namespace means a pool.
        (None, _) if name.contains('/') => None,
        (None, Some(bound)) => snapshot.pools.get(bound).map(AsRef::as_ref),
        (None, None) => only(),
    }
}

/// The only one of `pools`.
fn one<'a, T>(mut pools: impl Iterator<Item = T> + 'a) -> Option<T> {
    let first = pools.next()?;
    pools.next().is_none().then_some(first)
}

fn named<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Pool> {
    let pools = snapshot.pools.values().map(AsRef::as_ref);
    match name.split_once('/') {
        Some((namespace, name)) => {
            one(pools.filter(|pool: &&Pool| *pool.name.namespace == *namespace && *pool.name.name == *name))
        }
        None => one(pools.filter(|pool: &&Pool| *pool.name.name == *name)),
    }
}

/// `svc[:port]`, `svc.ns[:port]`, `svc.ns.svc[:port]` or `svc.ns.svc.<cluster domain>[:port]`; from Istio
/// `outbound|port|subset|svc.ns.svc.<cluster domain>`, whose `|` are `+` by now.
fn by_picker<'a>(snapshot: &'a Snapshot, authority: &Authority) -> Option<&'a Pool> {
    let mut of_istio = authority.host().strip_prefix("outbound+").into_iter().flat_map(|rest| rest.splitn(3, '+'));
    let (host, port) = match (of_istio.next(), of_istio.nth(1)) {
        (Some(port), Some(host)) => (host, port.parse().ok()),
        _ => (authority.host(), authority.port_u16()),
    };
    let mut labels = host.trim_end_matches('.').splitn(4, '.');
    let service = labels.next().filter(|service| !service.is_empty())?;
    let namespace = labels.next();
    if labels.next().is_some_and(|third| third != "svc") {
        return None;
    }
    let matches = |pool: &&Pool| {
        pool.picker.as_ref().is_some_and(|(name, port_of_pool)| {
            **name == *service
                && namespace.is_none_or(|namespace| *pool.name.namespace == *namespace)
                && match (port_of_pool, port) {
                    (Some(pool), Some(asked)) => *pool == asked,
                    _ => true,
                }
        })
    };
    one(snapshot.pools.values().map(AsRef::as_ref).filter(matches))
}

/// Keeps the request's `:authority`, which tonic drops, in the request's extensions.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuthorityLayer;

impl<S> tower::Layer<S> for AuthorityLayer {
    type Service = KeepAuthority<S>;

    fn layer(&self, inner: S) -> Self::Service {
        KeepAuthority { inner }
    }
}

/// See [`AuthorityLayer`].
#[derive(Clone, Debug)]
pub struct KeepAuthority<S> {
    inner: S,
}

impl<S, B> tower::Service<http::Request<B>> for KeepAuthority<S>
where
    S: tower::Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        if let Some(authority) = request.uri().authority().cloned() {
            request.extensions_mut().insert(authority);
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Namespace, name, and the picker Service with its port.
    type Declared = (&'static str, &'static str, Option<(&'static str, Option<u16>)>);

    fn fleet(pools: &[Declared]) -> Snapshot {
        let pools = pools.iter().map(|(namespace, name, picker)| {
            let name = PoolName::new(namespace, name);
            let picker = picker.map(|(service, port)| (Arc::from(service), port));
            let pool = Pool {
                name: name.clone(),
                picker,
                endpoints: Arc::default(),
                prefills: Default::default(),
                routing: Arc::default(),
            };
            (name, Arc::new(pool))
        });
        Snapshot { pools: pools.collect(), ..Snapshot::default() }
    }

    fn two() -> Snapshot {
        fleet(&[("a", "llama", Some(("llama-epp", Some(9002)))), ("b", "qwen", Some(("qwen-epp", None)))])
    }

    fn by_authority(snapshot: &Snapshot, authority: &'static str) -> Option<String> {
        let authority = Authority::from_static(authority);
        let hints = Hints { authority: Some(&authority), ..Hints::default() };
        find(snapshot, hints).ok().map(|pool| pool.to_string())
    }

    #[test]
    fn the_bound_pool_wins_over_all_hints() {
        let bound = PoolName::new("b", "qwen");
        let hints = Hints { bound: Some(&bound), metadata: Some("a/llama"), ..Hints::default() };
        assert_eq!(find(&two(), hints).unwrap(), bound);
    }

    #[test]
    fn metadata_and_attributes_name_a_pool_with_or_without_namespace() {
        for name in ["a/llama", "llama"] {
            let metadata = Hints { metadata: Some(name), ..Hints::default() };
            let attribute = Hints { attributes: [None, Some(name)], ..Hints::default() };
            assert_eq!(find(&two(), metadata).unwrap(), PoolName::new("a", "llama"));
            assert_eq!(find(&two(), attribute).unwrap(), PoolName::new("a", "llama"));
        }
    }

    #[test]
    fn an_authority_is_the_picker_service_in_every_form_of_its_name() {
        for authority in [
            "llama-epp",
            "llama-epp:9002",
            "llama-epp.a",
            "llama-epp.a:9002",
            "llama-epp.a.svc:9002",
            "llama-epp.a.svc.cluster.local",
            "llama-epp.a.svc.cluster.local:9002",
            "outbound+9002++llama-epp.a.svc.cluster.local",
            "outbound+9002+v1+llama-epp.a.svc.cluster.local",
        ] {
            assert_eq!(by_authority(&two(), authority).as_deref(), Some("a/llama"), "{authority}");
        }
        assert_eq!(by_authority(&two(), "qwen-epp.b:1234").as_deref(), Some("b/qwen"));
    }

    #[test]
    fn an_authority_of_another_namespace_port_or_domain_is_no_match() {
        for authority in [
            "llama-epp.b",
            "llama-epp.a:9003",
            "outbound+9003++llama-epp.a.svc.cluster.local",
            "llama-epp.a.example",
            "127.0.0.1:9002",
        ] {
            assert_eq!(by_authority(&two(), authority), None, "{authority}");
        }
    }

    #[test]
    fn a_name_that_two_pools_have_is_no_match_without_its_namespace() {
        let snapshot = fleet(&[("a", "llama", None), ("b", "llama", None)]);
        let ambiguous = Hints { metadata: Some("llama"), ..Hints::default() };
        assert!(find(&snapshot, ambiguous).is_err());
        let exact = Hints { metadata: Some("b/llama"), ..Hints::default() };
        assert_eq!(find(&snapshot, exact).unwrap(), PoolName::new("b", "llama"));
    }

    #[test]
    fn the_only_pool_needs_no_hint() {
        let snapshot = fleet(&[("a", "llama", None)]);
        assert_eq!(find(&snapshot, Hints::default()).unwrap(), PoolName::new("a", "llama"));
    }

    #[test]
    fn a_stream_that_names_no_pool_is_told_what_to_configure() {
        let Err(RefusalKind::UnknownPool(text)) = find(&two(), Hints::default()) else { panic!("found one") };
        assert!(text.contains("--pool-port") && text.contains(POOL_METADATA), "{text}");
    }
}
