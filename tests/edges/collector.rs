//! Spans on their way to a collector that is particular: TLS, our certificate, compression.

use std::fs;

use anyhow::{Context as _, Result};
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, ProcessingRequest, processing_request};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tests::config_dir::ConfigDir;
use tests::otlp_sink::OtlpSink;
use tests::picker::{Picker, PickerOptions};
use tests::scratch::Scratch;

use crate::connection;
use crate::running::DEADLINE;

/// A certificate and its key in PEM.
struct Pem {
    certificate: String,
    key: String,
}

/// An authority, and a certificate for 127.0.0.1 that it signed.
fn signed() -> Result<(String, Pem)> {
    let mut params = CertificateParams::new(["authority".to_owned()])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &authority)?;
    Ok((authority.pem(), Pem { certificate: certificate.pem(), key: key.serialize_pem() }))
}

/// One header-only request.
async fn ask(picker: &Picker) -> Result<()> {
    let header =
        |key: &str, value: &str| HeaderValue { key: key.to_owned(), raw_value: value.into(), ..HeaderValue::default() };
    let headers = HttpHeaders {
        headers: Some(HeaderMap { headers: vec![header(":method", "GET"), header(":path", "/v1/models")] }),
        end_of_stream: true,
        ..HttpHeaders::default()
    };
    let request = ProcessingRequest {
        request: Some(processing_request::Request::RequestHeaders(headers)),
        ..ProcessingRequest::default()
    };
    let channel = connection::plain(picker.grpc_address()).await?;
    let mut answers = ExternalProcessorClient::new(channel).process(tokio_stream::iter([request])).await?.into_inner();
    answers.message().await?.context("an answer").map(drop)
}

#[tokio::test]
async fn spans_reach_a_collector_behind_mutual_tls_compressed_or_not() -> Result<()> {
    let (authority, Pem { certificate, key }) = signed()?;
    let (client_authority, own) = signed()?;
    let files = Scratch::new("collector")?;
    let file = |name: &str, content: &str| -> Result<String> {
        let path = files.path().join(name);
        fs::write(&path, content)?;
        Ok(path.to_str().context("a path that is text")?.to_owned())
    };
    let (ca, crt, own_key) =
        (file("ca.pem", &authority)?, file("own.pem", &own.certificate)?, file("own.key", &own.key)?);
    let config = ConfigDir::new()?;
    config.pool("llama", &["127.0.0.1:1".parse()?])?;
    for (protocol, compression) in [("grpc", ""), ("grpc", "gzip"), ("http/protobuf", "")] {
        let sink = OtlpSink::start_tls(&certificate, &key, &client_authority).await?;
        let picker = PickerOptions::new(config.path())
            .traces(&sink.endpoint())
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
            .env("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)
            .env("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &crt)
            .env("OTEL_EXPORTER_OTLP_CLIENT_KEY", &own_key)
            .start()
            .await?;
        ask(&picker).await?;
        let came = sink.wait_for(DEADLINE, |spans| spans.first().cloned()).await;
        let span = came.with_context(|| format!("{protocol} {compression}: {}", picker.log()))?;
        assert_eq!(span.service, "kthena-ext-proc", "{protocol} {compression}");
    }
    Ok(())
}

#[tokio::test]
async fn the_first_line_says_where_the_picker_listens_and_the_next_what_is_wrong_with_tracing() -> Result<()> {
    let config = ConfigDir::new()?;
    config.pool("llama", &["127.0.0.1:1".parse()?])?;
    let picker = PickerOptions::new(config.path())
        .traces("https://127.0.0.1:1")
        .env("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")
        .env("OTEL_TRACES_SAMPLER", "sometimes")
        .start()
        .await?;
    let log = picker.log();
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].contains("grpcAddress"), "{log}");
    assert!(lines[1].contains("OTEL_TRACES_SAMPLER"), "{log}");
    assert!(lines[2].contains("tracing is off") && lines[2].contains("/nowhere/ca.pem"), "{log}");
    Ok(())
}
