//! The fleet from a directory of manifests (`--config-dir`), read again when it changes.
//!
//! All or nothing: a file that cannot be used leaves the whole last good state in place, because
//! half a directory is a fleet that nobody wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use scheduling::{Declared, Event};
use tracing::{info, warn};

use crate::declarations::Declarations;
use crate::fleet::Fleet;
use crate::health::Readiness;
use crate::manifest::{self, Object};
use crate::resources::{Resources, declare, full_name};

/// How often names, sizes and times of the files are compared.
const POLL: Duration = Duration::from_millis(250);

/// The largest file that is read, in bytes.
const FILE_CAP: u64 = 256 << 20;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The directory, or a file in it, cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What cannot be read.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is too large to be manifests.
    #[error("{} has more than {FILE_CAP} bytes", .0.display())]
    TooLarge(PathBuf),
    /// A file has an error, which says line and field.
    #[error("{}: {cause}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Line, field and cause.
        cause: String,
    },
    /// Two documents declare the same object.
    #[error("{object} is in {first} and in {second}: remove one of them")]
    Duplicate {
        /// Kind, namespace and name.
        object: String,
        /// File and line.
        first: String,
        /// File and line.
        second: String,
    },
    /// An object says something which cannot be.
    #[error("{origin}: {cause}")]
    Invalid {
        /// File and line.
        origin: String,
        /// Object, field and cause.
        cause: crate::resources::InvalidResource,
    },
}

/// Follows a directory.
#[derive(Debug)]
pub struct ConfigDir {
    directory: PathBuf,
    declarations: Arc<Declarations>,
    seen: Option<Fingerprint>,
    ignored: BTreeSet<String>,
}

/// What tells that a directory changed, without reading its files.
type Fingerprint = BTreeMap<PathBuf, (u64, u64, i64, i64)>;

/// A state that was read and can be used.
struct Loaded {
    resources: Resources,
    declared: Declared,
    ignored: BTreeSet<String>,
}

impl ConfigDir {
    /// Follows `directory`, which must exist.
    ///
    /// # Errors
    /// [`FilesError::Read`] when it cannot be listed.
    pub fn new(directory: &Path) -> Result<Self, FilesError> {
        fingerprint(directory)?;
        let directory = directory.to_owned();
        Ok(Self { directory, declarations: Arc::default(), seen: None, ignored: BTreeSet::new() })
    }

    /// What is in use.
    #[must_use]
    pub fn declarations(&self) -> Arc<Declarations> {
        Arc::clone(&self.declarations)
    }

    /// Reads the directory now and then whenever it changes, for ever. `failed` is called once for
    /// each different error.
    ///
    /// # Errors
    /// Never by itself; the reading thread was cancelled, which means that the process ends.
    pub async fn follow(
        mut self,
        fleet: Arc<Fleet>,
        readiness: Readiness,
        failed: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<(), tokio::task::JoinError> {
        loop {
            // Files are read on a thread of their own: a dump of a large cluster takes a while.
            let (fleet, readiness, failed) = (Arc::clone(&fleet), readiness.clone(), Arc::clone(&failed));
            let poll = move || {
                self.poll(&fleet, &readiness, &*failed);
                self
            };
            self = tokio::task::spawn_blocking(poll).await?;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads the directory if it changed. Returns whether a new state was taken into use.
    fn poll(&mut self, fleet: &Fleet, readiness: &Readiness, failed: &dyn Fn()) -> bool {
        let loaded = fingerprint(&self.directory).and_then(|now| {
            if self.seen.as_ref() == Some(&now) {
                return Ok(None);
            }
            let loaded = load(&now);
            self.seen = Some(now);
            loaded.map(Some)
        });
        match loaded {
            Ok(None) => false,
            Ok(Some(loaded)) => {
                self.accept(loaded, fleet);
                readiness.fleet_known();
                true
            }
            Err(error) => {
                self.reject(&error, failed);
                false
            }
        }
    }

    fn accept(&mut self, loaded: Loaded, fleet: &Fleet) {
        let Loaded { resources, declared, ignored } = loaded;
        for kind in ignored.difference(&self.ignored) {
            info!(kind, "Ignoring objects of a kind that the picker does not use.");
        }
        self.ignored.extend(ignored);
        let endpoints: usize = declared.pools.iter().map(|pool| pool.endpoints.len()).sum();
        let pools = declared.pools.len();
        fleet.apply(Event::Declared(declared));
        let generation = self.declarations.accept(resources, None);
        info!(generation, pools, endpoints, "Loaded the configuration directory.");
    }

    fn reject(&mut self, error: &FilesError, failed: &dyn Fn()) {
        let text = error.to_string();
        if self.declarations.reject(&text) {
            warn!(error = text, "Keeping the last good configuration.");
            failed();
        }
    }
}

/// Names, inodes, sizes and times of the manifest files. Links are followed, so the swap of a
/// mounted ConfigMap's link shows as other inodes.
fn fingerprint(directory: &Path) -> Result<Fingerprint, FilesError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| FilesError::Read { path, source }
    };
    let mut found = Fingerprint::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest =
            path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|it| extension == *it));
        if hidden || !manifest {
            continue;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) => {
                found.insert(path, identity(&metadata));
            }
            // Gone between the listing and now: the next poll sees the directory as it is then.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {}
            Err(error) => return Err(failed(&path)(error)),
        }
    }
    Ok(found)
}

fn identity(metadata: &Metadata) -> (u64, u64, i64, i64) {
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn load(files: &Fingerprint) -> Result<Loaded, FilesError> {
    let mut resources = Resources::default();
    let mut origins: BTreeMap<String, String> = BTreeMap::new();
    let mut ignored = BTreeSet::new();
    for (path, (_, length, ..)) in files {
        if *length > FILE_CAP {
            return Err(FilesError::TooLarge(path.clone()));
        }
        let text = fs::read_to_string(path).map_err(|source| FilesError::Read { path: path.clone(), source })?;
        let manifests = manifest::parse(&text)
            .map_err(|error| FilesError::Manifest { path: path.clone(), cause: error.to_string() })?;
        ignored.extend(manifests.ignored);
        for (line, object) in manifests.objects {
            let origin = format!("{} line {line}", path.display());
            let identity = add(&mut resources, object).map_err(|kind| FilesError::Manifest {
                path: path.clone(),
                cause: format!("line {line}: metadata.name: a {kind} needs a name"),
            })?;
            if let Some(first) = origins.insert(identity.clone(), origin.clone()) {
                return Err(FilesError::Duplicate { object: identity, first, second: origin });
            }
        }
    }
    let declared = declare(&resources).map_err(|cause| {
        let origin = origins.get(&format!("{} {}", cause.kind, cause.name)).cloned().unwrap_or_default();
        FilesError::Invalid { origin, cause }
    })?;
    Ok(Loaded { resources, declared, ignored })
}

/// Adds the object and returns its kind and name; an object without a name gives its kind back.
fn add(resources: &mut Resources, object: Object) -> Result<String, &'static str> {
    let (kind, metadata) = match &object {
        Object::Pod(it) => ("Pod", &it.metadata),
        Object::InferencePool(it) => ("InferencePool", &it.metadata),
        Object::ModelServer(it) => ("ModelServer", &it.metadata),
        Object::ModelRoute(it) => ("ModelRoute", &it.metadata),
    };
    if metadata.name.as_deref().unwrap_or_default().is_empty() {
        return Err(kind);
    }
    let identity = format!("{kind} {}", full_name(metadata));
    match object {
        Object::Pod(mut pod) => {
            // Nobody reads them, and in a dump they are most of a pod.
            pod.metadata.managed_fields = None;
            resources.pods.push(Arc::new(*pod));
        }
        Object::InferencePool(pool) => resources.inference_pools.push(Arc::new(*pool)),
        Object::ModelServer(server) => resources.model_servers.push(Arc::new(*server)),
        Object::ModelRoute(route) => resources.model_routes.push(Arc::new(*route)),
    }
    Ok(identity)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
