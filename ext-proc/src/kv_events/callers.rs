//! Engines that connect to the picker: vLLM's publisher does where its `endpoint` names a host instead
//! of `*`. Whose events they are, the topic says, or else where the connection comes from.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, unfold};
use futures_util::{Stream, StreamExt};
use scheduling::{Endpoint, Snapshot};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use super::rank::Heard;
use super::zmtp::{Connection, Role, ZmtpError};
use crate::fleet::Fleet;
use crate::listen::bind;

/// Connections of which it is not known yet whose they are: those of engines that have published nothing
/// since. More wait in the kernel's queue.
const STRANGERS: usize = 1024;

/// The pause after an accept that failed, as when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where engines connect: for rank 0, as `tcp://[::]:5557`. Rank n does so n ports above, as vLLM's ranks do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    address: IpAddr,
    port: u16,
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let place = text.strip_prefix("tcp://")?;
            match place.strip_prefix("*:") {
                Some(port) => Some(Self { address: Ipv6Addr::UNSPECIFIED.into(), port: port.parse().ok()? }),
                None => place.parse().ok().map(|place: SocketAddr| Self { address: place.ip(), port: place.port() }),
            }
        };
        let is_port = |bind: &Self| bind.port > 0;
        parsed().filter(is_port).ok_or_else(|| {
            "write it as tcp:// with an IP address or * and a port above 0, for example `tcp://[::]:5557`".to_owned()
        })
    }
}

impl Bind {
    /// A listener for each rank.
    ///
    /// # Errors
    /// The system's, with the address; also when the ranks need more ports than there are.
    pub async fn listen(self, ranks: u16) -> io::Result<Vec<TcpListener>> {
        let mut listeners = Vec::new();
        for rank in 0..ranks {
            let port = self.port.checked_add(rank).ok_or_else(|| {
                io::Error::other(format!("--kv-events-ranks {ranks} reaches beyond port 65535: lower the port"))
            })?;
            listeners.push(bind(self.address, port).await?);
        }
        Ok(listeners)
    }
}

/// An engine that has connected.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) rank: u32,
    pub(super) heard: Heard,
}

/// Engines as they connect; never ends.
pub(super) type Callers = Pin<Box<dyn Stream<Item = Caller> + Send>>;

/// The engines that connect to the listener of one rank, each as soon as it is known which it is.
pub(super) fn callers(rank: u32, listener: TcpListener, topic: Arc<str>, fleet: Arc<Fleet>) -> Callers {
    let strangers = FuturesUnordered::new();
    Box::pin(unfold((listener, strangers), move |(listener, mut strangers)| {
        let (topic, fleet) = (Arc::clone(&topic), Arc::clone(&fleet));
        async move {
            loop {
                tokio::select! {
                    accepted = listener.accept(), if strangers.len() < STRANGERS => match accepted {
                        Ok((stream, peer)) => {
                            let (topic, fleet) = (Arc::clone(&topic), Arc::clone(&fleet));
                            strangers.push(async move {
                                introduce(stream, peer, rank, &topic, &fleet).await.map_err(|error| (peer, error))
                            });
                        }
                        Err(error) => {
                            warn!(%error, "Cannot accept a connection.");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                    Some(introduced) = strangers.next() => match introduced {
                        Ok(caller) => return Some((caller, (listener, strangers))),
                        Err((peer, error)) => debug!(%error, %peer, "A connection for KV events ended before its first message."),
                    },
                }
            }
        }
    }))
}

/// Greets and listens until a message comes of which it is known whose it is. What came before is
/// missed: it is a gap, as any other.
async fn introduce(
    stream: TcpStream,
    peer: SocketAddr,
    rank: u32,
    topic: &str,
    fleet: &Fleet,
) -> Result<Caller, ZmtpError> {
    let mut connection = Connection::accepted(stream, Role::Subscriber { topic: topic.as_bytes() }).await?;
    let mut told = false;
    loop {
        let message = connection.receive().await?;
        let topic = message.first().map(|topic| String::from_utf8_lossy(topic)).unwrap_or_default();
        match whose(&topic, peer.ip(), &fleet.snapshot()) {
            Ok(endpoint) => return Ok(Caller { endpoint, rank, heard: Heard { connection, first: Some(message) } }),
            Err(error) if !std::mem::replace(&mut told, true) => {
                warn!(%peer, %topic, %error, "KV events are of no endpoint: let the engines' topic be `kv@IP:PORT@MODEL`.");
            }
            Err(_) => {}
        }
    }
}

/// Why it is not known whose events these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum WhoseError {
    #[error("no endpoint has this name or address")]
    Nobody,
    #[error("several endpoints have this name or address")]
    Several,
}

/// The endpoint that a topic names, as `kv@POD@MODEL` does: POD is its address with or without the port, or
/// the pod's name with or without the namespace. A topic that names none leaves the peer's address.
fn whose(topic: &str, peer: IpAddr, snapshot: &Snapshot) -> Result<Arc<Endpoint>, WhoseError> {
    let named = topic.strip_prefix("kv@").map(|rest| rest.split('@').next().unwrap_or(rest)).unwrap_or_default();
    let ip = named.parse::<IpAddr>().ok();
    let is_named = |endpoint: &Endpoint| match (named.parse::<SocketAddr>(), ip) {
        (Ok(address), _) => endpoint.address == address,
        (_, Some(ip)) => endpoint.address.ip() == ip,
        _ => {
            let pod = endpoint.name.rsplit_once('/').map_or(&*endpoint.name, |(_, pod)| pod);
            !named.is_empty() && (*endpoint.name == *named || pod == named)
        }
    };
    match only(snapshot, is_named) {
        Err(WhoseError::Nobody) => only(snapshot, |endpoint| endpoint.address.ip() == peer.to_canonical()),
        found => found,
    }
}

/// The one endpoint of all pools for which this is so. In several pools it is still one.
fn only(snapshot: &Snapshot, is_it: impl Fn(&Endpoint) -> bool) -> Result<Arc<Endpoint>, WhoseError> {
    let mut found: Option<&Arc<Endpoint>> = None;
    for endpoint in snapshot.pools.values().flat_map(|pool| pool.all_endpoints()).filter(|endpoint| is_it(endpoint)) {
        if found.is_some_and(|found| found.address != endpoint.address) {
            return Err(WhoseError::Several);
        }
        found = Some(endpoint);
    }
    found.cloned().ok_or(WhoseError::Nobody)
}

#[cfg(test)]
mod tests {
    use scheduling::{Declared, DeclaredEndpoint, DeclaredPool, EngineKind, Event, PoolName, Profile};

    use super::*;

    #[test]
    fn an_address_is_written_as_zeromq_has_it() {
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        for (text, address, port) in [
            ("tcp://[::]:5557", any, 5557),
            ("tcp://*:1", any, 1),
            ("tcp://127.0.0.1:65535", IpAddr::from([127, 0, 0, 1]), 65535),
        ] {
            assert_eq!(text.parse(), Ok(Bind { address, port }));
        }
        for text in ["[::]:5557", "tcp://picker:5557", "tcp://*", "tcp://*:0", "ipc:///kv"] {
            assert!(text.parse::<Bind>().unwrap_err().contains("tcp://[::]:5557"), "{text}");
        }
    }

    #[test]
    fn a_topic_names_an_endpoint_or_else_the_peers_address_does() {
        let fleet = Fleet::new(Profile::default());
        let endpoint = |address: &str, name: &str| DeclaredEndpoint {
            address: address.parse().unwrap(),
            name: name.into(),
            labels: Arc::default(),
            ready: true,
            engine: EngineKind::Vllm,
        };
        let endpoints = vec![
            endpoint("10.0.0.1:8000", "a/one"),
            endpoint("10.0.0.2:8000", "a/two"),
            endpoint("10.0.0.2:8001", "a/two"),
            endpoint("10.0.0.3:8000", "b/one"),
        ];
        let pool = |name: &str, endpoints| DeclaredPool { name: PoolName::new("a", name), picker: None, endpoints };
        // An endpoint of two pools is one endpoint.
        let pools = vec![pool("all", endpoints.clone()), pool("some", endpoints[..1].to_vec())];
        fleet.apply(Event::Declared(Declared { pools, ..Declared::default() }));
        let whose = |topic: &str, peer: &str| {
            let found = whose(topic, peer.parse().unwrap(), &fleet.snapshot());
            found.map(|endpoint| endpoint.address.to_string())
        };
        let stranger = "192.0.2.1";
        for (topic, peer, expected) in [
            ("kv@10.0.0.1:8000@m", stranger, Ok("10.0.0.1:8000")),
            ("kv@10.0.0.1@m@x", stranger, Ok("10.0.0.1:8000")),
            ("kv@10.0.0.2:8001", stranger, Ok("10.0.0.2:8001")),
            ("kv@10.0.0.2@m", stranger, Err(WhoseError::Several)),
            ("kv@a/one@m", stranger, Ok("10.0.0.1:8000")),
            ("kv@one@m", stranger, Err(WhoseError::Several)),
            ("kv@three@m", stranger, Err(WhoseError::Nobody)),
            ("kv@three@m", "::ffff:10.0.0.3", Ok("10.0.0.3:8000")),
            ("", "10.0.0.3", Ok("10.0.0.3:8000")),
            ("kv-events", "10.0.0.2", Err(WhoseError::Several)),
        ] {
            assert_eq!(whose(topic, peer), expected.map(str::to_owned), "{topic} from {peer}");
        }
    }
}
