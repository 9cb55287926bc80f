//! Envoy takes every configuration that the other tests use, and ours as it stands.

use std::net::SocketAddr;

use tests::envoy;
use tests::shapes::{Pool, ai_gateway, envoy_gateway, istio, plain, standalone};

fn pools() -> [Pool; 2] {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    ["llama", "qwen"].map(|name| Pool::new(name, &[address(1), address(2)], address(3)))
}

#[tokio::test]
async fn the_standalone_configuration_is_valid_as_it_stands() {
    envoy::validate(&standalone::path()).await.unwrap();
}

#[tokio::test]
async fn the_standalone_configuration_is_valid_with_all_its_comments_taken_away() {
    let text = std::fs::read_to_string(standalone::path()).unwrap();
    // A comment has one space after its sign; code that is commented out has none, or its indentation.
    let uncommented = |line: &str| match line.split_once('#') {
        Some((indent, code)) if indent.trim().is_empty() && (!code.starts_with(' ') || code.starts_with("  ")) => {
            format!("{indent}{code}\n")
        }
        _ => format!("{line}\n"),
    };
    let folder = tests::scratch::Scratch::new("validate").unwrap();
    let text: String = text.lines().map(uncommented).collect();
    assert!(text.contains("\n          tracing:\n") && text.contains("\n  - name: otel\n"), "{text}");
    std::fs::write(folder.file("standalone.yaml"), text).unwrap();
    envoy::validate(&folder.file("standalone.yaml")).await.unwrap();
}

#[tokio::test]
async fn envoy_accepts_the_shapes_of_all_gateways() {
    let pools = pools();
    envoy_gateway::config(&pools, envoy_gateway::Body::Buffered).start().await.unwrap();
    envoy_gateway::config(&pools, envoy_gateway::Body::FullDuplex).start().await.unwrap();
    ai_gateway::config(&pools, ai_gateway::Body::Duplex).start().await.unwrap();
    ai_gateway::config(&pools, ai_gateway::Body::Buffered).start().await.unwrap();
    istio::config(&pools, true).start().await.unwrap();
    for body in plain::Body::ALL {
        plain::config(&pools[0], body).start().await.unwrap();
    }
}
