//! Stands between the operator and the API server: counts calls, shows one namespace as if it were the cluster, and
//! spoils what a test wants spoilt.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt as _;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub use super::call::Call;
use super::certificates::Certificates;
use super::control_plane::{ControlPlane, write_kubeconfig};
use crate::poll;
use crate::scratch::Scratch;

/// Kinds that are shown for one namespace only.
const NAMESPACED: &[&str] = &[
    "configmaps",
    "controllerrevisions",
    "httproutes",
    "inferencepools",
    "leaderworkersets",
    "modelroutes",
    "modelservers",
    "modelservings",
    "podgroups",
    "pods",
    "services",
];

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// This status comes back; the server is not asked.
    Answer(u16),
    /// The server is asked, and its answer gets lost: the connection breaks.
    LoseAnswer,
    /// The server is not asked, and no answer ever comes.
    Hang,
    /// The server is asked, and nothing passes from then on, until [`Proxy::thaw`]: the moment of a crash.
    FreezeAfter,
}

type Rule = Arc<dyn Fn(&Call) -> Fault + Send + Sync>;
type Body = BoxBody<Bytes, hyper::Error>;

/// A proxy in front of a [`ControlPlane`]; it ends with its value.
pub struct Proxy {
    address: SocketAddr,
    inner: Arc<Inner>,
    scratch: Scratch,
    serving: JoinHandle<()>,
}

struct Inner {
    upstream: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    namespace: Option<String>,
    state: Mutex<State>,
    cut: tokio::sync::watch::Sender<()>,
}

struct State {
    rule: Rule,
    calls: Vec<Call>,
    counted: usize,
    frozen: bool,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Proxy").field(&self.address).finish()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    /// Shows the whole cluster.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(plane: &ControlPlane) -> Result<Self> {
        Self::serve(plane, None).await
    }

    /// Shows one namespace: lists and watches of everything are lists and watches of what is in it. So several
    /// operators work on one API server, and none sees what is another's.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub async fn for_namespace(plane: &ControlPlane, namespace: &str) -> Result<Self> {
        Self::serve(plane, Some(namespace.to_owned())).await
    }

    async fn serve(plane: &ControlPlane, namespace: Option<String>) -> Result<Self> {
        let upstream = Client::builder(TokioExecutor::new()).build(plane.config().await?.rustls_https_connector()?);
        let state = State { rule: Arc::new(|_| Fault::None), calls: Vec::new(), counted: 0, frozen: false };
        let inner = Arc::new(Inner {
            upstream,
            url: plane.url().to_owned(),
            namespace,
            state: Mutex::new(state),
            cut: tokio::sync::watch::Sender::new(()),
        });
        let certificates = Certificates::new(Ipv4Addr::LOCALHOST.into())?;
        let chain = CertificateDer::pem_slice_iter(certificates.certificate.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let scratch = Scratch::new("proxy")?;
        std::fs::write(scratch.file("ca.crt"), &certificates.authority)?;
        write_kubeconfig(
            &scratch.file("kubeconfig"),
            &format!("https://{address}"),
            &scratch.file("ca.crt"),
            plane.token(),
        )?;
        let serving = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), Arc::clone(&inner)));
        Ok(Self { address, inner, scratch, serving })
    }

    /// A kubeconfig file that leads here.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.scratch.file("kubeconfig")
    }

    /// The folder of [`Proxy::kubeconfig`].
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Has `rule` say what happens to each call from now on.
    pub fn spoil(&self, rule: impl Fn(&Call) -> Fault + Send + Sync + 'static) {
        self.inner.state.lock().rule = Arc::new(rule);
    }

    /// Spoils nothing any more.
    pub fn heal(&self) {
        self.spoil(|_| Fault::None);
    }

    /// All calls so far, in the order in which they came.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.inner.state.lock().calls.clone()
    }

    /// How many calls came so far: where [`Proxy::calls`] will go on.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.state.lock().calls.len()
    }

    /// Whether no call came.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The calls that changed something, or were to, from the `from`th call on.
    #[must_use]
    pub fn writes(&self, from: usize) -> Vec<Call> {
        self.inner.state.lock().calls.iter().skip(from).filter(|call| call.counts()).cloned().collect()
    }

    /// Counts writes from one again.
    pub fn count_from_one(&self) {
        self.inner.state.lock().counted = 0;
    }

    /// Whether [`Fault::FreezeAfter`] has happened.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.inner.state.lock().frozen
    }

    /// Cuts every connection that is open, watches among them.
    pub fn cut(&self) {
        self.inner.cut.send_replace(());
    }

    /// Waits until [`Fault::FreezeAfter`] has happened.
    ///
    /// # Errors
    /// When it does not within `deadline`.
    pub async fn wait_until_frozen(&self, deadline: Duration) -> Result<()> {
        poll::until("the write that freezes", deadline, async || self.is_frozen().then_some(())).await
    }

    /// Lets calls pass again; those that were held stay without an answer.
    pub fn thaw(&self) {
        self.inner.state.lock().frozen = false;
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, inner: Arc<Inner>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (tls, inner) = (tls.clone(), Arc::clone(&inner));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let mut cut = inner.cut.subscribe();
            let service = service_fn(|request| answer(Arc::clone(&inner), request));
            // Ends when the client goes, or when an answer is to get lost.
            let serve = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = serve => {}
                _ = cut.changed() => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(inner: Arc<Inner>, request: Request<Incoming>) -> Result<Response<Body>> {
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut call = Call::read(&parts.method, &parts.uri, content_type.unwrap_or_default(), &body);
    let (index, fault) = inner.register(&mut call);
    match fault {
        None | Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Answer(code)) => return refusal(code),
        Some(Fault::None | Fault::LoseAnswer | Fault::FreezeAfter) => {}
    }
    let path = inner.path(&call, &parts.uri);
    parts.uri = Uri::try_from(format!("{}{path}", inner.url))?;
    parts.headers.remove(header::HOST);
    parts.headers.remove(header::CONNECTION);
    // A task of its own: a client that is killed meanwhile does not take back what it has asked for, and it is counted.
    let asked = tokio::spawn({
        let inner = Arc::clone(&inner);
        async move {
            let response = inner.upstream.request(Request::from_parts(parts, Full::new(body))).await?;
            inner.state.lock().calls[index].status = Some(response.status().as_u16());
            anyhow::Ok(response)
        }
    });
    let response = asked.await??;
    match fault {
        Some(Fault::FreezeAfter) => std::future::pending().await,
        Some(Fault::LoseAnswer) => anyhow::bail!("lost on purpose"),
        _ => Ok(response.map(|body| body.boxed())),
    }
}

impl Inner {
    /// Remembers the call; none when nothing passes any more.
    fn register(&self, call: &mut Call) -> (usize, Option<Fault>) {
        let mut state = self.state.lock();
        if state.frozen {
            return (usize::MAX, None);
        }
        if call.counts() {
            state.counted += 1;
            call.number = state.counted;
        }
        let fault = (state.rule)(call);
        state.frozen = fault == Fault::FreezeAfter;
        state.calls.push(call.clone());
        (state.calls.len() - 1, Some(fault))
    }

    /// Where the server is asked.
    fn path(&self, call: &Call, uri: &Uri) -> String {
        let path = uri.path_and_query().map_or_else(|| uri.path(), |both| both.as_str());
        match &self.namespace {
            Some(namespace)
                if call.namespace.is_empty()
                    && matches!(call.verb, "list" | "watch")
                    && NAMESPACED.contains(&call.resource.as_str()) =>
            {
                let resource = format!("/{}", call.resource);
                path.replacen(&resource, &format!("/namespaces/{namespace}{resource}"), 1)
            }
            _ => path.to_owned(),
        }
    }
}

/// What an API server says with such a status.
fn refusal(code: u16) -> Result<Response<Body>> {
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "refused by a test", "reason": reason, "code": code,
    });
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).context("a status")?;
    let headers: [(HeaderName, &str); 2] = [(header::CONTENT_TYPE, "application/json"), (header::RETRY_AFTER, "1")];
    for (name, value) in headers {
        if name != header::RETRY_AFTER || code == 429 {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    }
    Ok(response)
}
