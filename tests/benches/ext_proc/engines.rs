//! Endpoints that cost next to nothing: they throw the body away and answer at once.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const COMPLETION: &str = r#"{"id":"chatcmpl-0","object":"chat.completion","created":1767225600,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"An answer of the length that a short one has."},"finish_reason":"stop","logprobs":null}],"usage":{"prompt_tokens":256,"completion_tokens":12,"total_tokens":268}}"#;
const MODELS: &str = r#"{"object":"list","data":[{"id":"bench","object":"model"}]}"#;
const GAUGES: &str = "# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine=\"0\",model_name=\"bench\"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine=\"0\",model_name=\"bench\"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"bench\"} 0.25
";

/// Starts `count` endpoints on addresses of their own with one port, as the pods of a pool have.
pub(crate) async fn start(count: u8) -> Result<Vec<SocketAddr>> {
    let mut listeners = Vec::new();
    for _ in 0..20 {
        listeners = listen(count).await;
        if listeners.len() == usize::from(count) {
            break;
        }
    }
    anyhow::ensure!(listeners.len() == usize::from(count), "no port is free on 127.0.0.1 to 127.0.0.{count}");
    let addresses = listeners.iter().map(|listener| listener.local_addr().context("a listener has an address"));
    let addresses = addresses.collect::<Result<_>>()?;
    for listener in listeners {
        tokio::spawn(serve(listener));
    }
    Ok(addresses)
}

async fn listen(count: u8) -> Vec<TcpListener> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for host in 1..=count {
        let port = listeners.first().and_then(|first| first.local_addr().ok()).map_or(0, |first| first.port());
        let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), port));
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(_) => break,
        }
    }
    listeners
}

async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (content_type, text) = match request.uri().path() {
        "/metrics" => ("text/plain; version=0.0.4", GAUGES),
        "/v1/models" => ("application/json", MODELS),
        _ => ("application/json", COMPLETION),
    };
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let response = Response::builder().header("content-type", content_type);
    Ok(response.body(Full::new(Bytes::from_static(text.as_bytes()))).unwrap_or_default())
}
