//! TLS and plain text on one port, and certificates that change.

use anyhow::Result;
use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tests::poll;
use tests::scratch::Scratch;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::connection::{plain, tls};
use crate::health::check;
use crate::running::{DEADLINE, Running};

#[tokio::test]
async fn tls_1_2_without_sni_and_tls_1_3_and_plain_text_share_a_port() -> Result<()> {
    let running = Running::ready(&[]).await?;
    let versions = [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)];
    for (offered, negotiated) in versions {
        let tls = tls(running.addresses.grpc, offered).await?;
        assert_eq!((tls.version, tls.alpn.as_deref()), (Some(negotiated), Some(&b"h2"[..])));
        assert_eq!(check(tls.channel, "").await?, ServingStatus::Serving);
    }
    assert_eq!(check(plain(running.addresses.grpc).await?, "").await?, ServingStatus::Serving);
    Ok(())
}

#[tokio::test]
async fn tls_can_be_required_or_switched_off() -> Result<()> {
    let required = Running::ready(&["--tls=required"]).await?;
    assert!(check(tls(required.addresses.grpc, &TLS13).await?.channel, "").await.is_ok());
    assert!(match plain(required.addresses.grpc).await {
        Ok(channel) => check(channel, "").await.is_err(),
        Err(_) => true,
    });
    let off = Running::ready(&["--tls=off"]).await?;
    assert!(check(plain(off.addresses.grpc).await?, "").await.is_ok());
    assert!(tls(off.addresses.grpc, &TLS13).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_silent_client_delays_nobody_and_is_dropped() -> Result<()> {
    let running = Running::ready(&[]).await?;
    let mut silent = TcpStream::connect(running.addresses.grpc).await?;
    assert_eq!(check(plain(running.addresses.grpc).await?, "").await?, ServingStatus::Serving);
    let read = tokio::time::timeout(DEADLINE, silent.read(&mut [0; 1])).await?;
    assert!(matches!(read, Ok(0) | Err(_)), "the picker has hung up");
    Ok(())
}

#[tokio::test]
async fn a_port_of_a_pool_is_one_more_listener() -> Result<()> {
    let running = Running::ready(&["--pool-port=default/llama=0"]).await?;
    let (pool, address) = &running.addresses.pools[0];
    assert_eq!(pool.to_string(), "default/llama");
    assert_eq!(check(plain(*address).await?, "").await?, ServingStatus::Serving);
    Ok(())
}

fn write_certificate(directory: &Scratch) -> Result<Vec<u8>> {
    let made = rcgen::generate_simple_self_signed(["picker.example".to_owned()])?;
    std::fs::write(directory.file("tls.key"), made.signing_key.serialize_pem())?;
    std::fs::write(directory.file("tls.crt"), made.cert.pem())?;
    Ok(made.cert.der().to_vec())
}

#[tokio::test]
async fn a_changed_certificate_is_served_and_a_bad_one_is_not() -> Result<()> {
    let directory = Scratch::new("certificate")?;
    let first = write_certificate(&directory)?;
    let path = directory.path().display().to_string();
    let running = Running::ready(&["--cert-path", &path]).await?;
    assert_eq!(tls(running.addresses.grpc, &TLS12).await?.certificate, first);

    let second = write_certificate(&directory)?;
    poll::until("the new certificate", DEADLINE, async || {
        let served = tls(running.addresses.grpc, &TLS13).await.ok()?.certificate;
        (served == second).then_some(())
    })
    .await?;

    std::fs::write(directory.file("tls.crt"), "no certificate")?;
    running.until_counted("reload_failures_total{source=\"certificate\"").await?;
    assert_eq!(tls(running.addresses.grpc, &TLS13).await?.certificate, second);
    Ok(())
}

#[tokio::test]
async fn files_that_are_no_certificate_stop_the_start() -> Result<()> {
    let directory = Scratch::new("certificate")?;
    let path = directory.path().display().to_string();
    let error = Running::ready(&["--cert-path", &path]).await.err().map(|error| format!("{error:#}"));
    assert!(error.is_some_and(|error| error.contains("--cert-path") && error.contains("tls.crt")));
    Ok(())
}
