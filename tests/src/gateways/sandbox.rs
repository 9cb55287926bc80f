//! A user, network and mount namespace of our own: gateways listen on fixed ports and want fixed files, and here
//! nobody else is in their way. It goes with this process and leaves nothing behind.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::poll;
use anyhow::{Context as _, Result, bail};

/// Set inside.
const MARK: &str = "KTHENA_TESTS_INSIDE";

/// A user who is root inside only, with a network and mounts of their own.
const UNSHARE: [&str; 4] = ["--user", "--map-root-user", "--net", "--mount"];

/// The addresses of pods and of the API server, all on this machine. EndpointSlices refuse 127.0.0.0/8.
pub fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, host)
}

/// How many of these addresses there are.
pub const ADDRESSES: u8 = 64;

/// Whether we are in it already.
pub fn is_inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Whether this machine lets us.
///
/// # Errors
/// What to install or to allow.
pub fn check() -> Result<()> {
    let tried = Command::new("unshare")
        .args(UNSHARE)
        .args(["ip", "link", "set", "lo", "up"])
        .output()
        .context("cannot run unshare: install util-linux")?;
    if !tried.status.success() {
        bail!(
            "cannot make a network namespace without root. It needs unprivileged user namespaces (sysctl \
             user.max_user_namespaces above 0; on Debian kernel.unprivileged_userns_clone=1; on Ubuntu \
             kernel.apparmor_restrict_unprivileged_userns=0; in a container the right to call unshare) and `ip` of \
             iproute2. unshare said: {}",
            String::from_utf8_lossy(&tried.stderr).trim()
        );
    }
    Ok(())
}

/// Becomes the same program inside.
///
/// # Errors
/// When unshare cannot be run.
pub fn enter() -> Result<Infallible> {
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(MARK, "1");
    Err(command.exec()).context("cannot run unshare")
}

/// Brings loopback up, with our addresses.
///
/// # Errors
/// When `ip` refuses.
pub async fn furnish() -> Result<()> {
    ip(&["link", "set", "lo", "up"]).await?;
    for host in 1..=ADDRESSES {
        ip(&["address", "add", &format!("{}/32", address(host)), "dev", "lo"]).await?;
    }
    Ok(())
}

/// Runs `ip`.
///
/// # Errors
/// With what it said.
pub async fn ip(arguments: &[&str]) -> Result<()> {
    let output = tokio::process::Command::new("ip").args(arguments).output().await?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Waits until something listens there.
///
/// # Errors
/// When nothing does in time.
pub async fn wait_for_listener(what: &str, address: std::net::SocketAddr) -> Result<()> {
    poll::until(&format!("{what} to listen at {address}"), super::SOON, async || {
        tokio::net::TcpStream::connect(address).await.ok().map(drop)
    })
    .await
}

/// Moves a network device into the namespace of a process, once that is in one of its own.
///
/// # Errors
/// When it does not get one in time.
pub async fn move_link(device: &str, pid: &str) -> Result<()> {
    let ours = std::fs::read_link("/proc/self/ns/net")?;
    poll::until("a network namespace", super::SOON, async || {
        std::fs::read_link(format!("/proc/{pid}/ns/net")).ok().filter(|its| *its != ours)
    })
    .await?;
    ip(&["link", "set", device, "netns", pid]).await
}
