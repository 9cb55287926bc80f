//! Reading a directory again and again: tests of [`super::ConfigDir`].

use std::sync::atomic::{AtomicUsize, Ordering};

use scheduling::Profile;

use super::*;

const POOL: &str = "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: llama}\n\
    spec:\n  selector: {matchLabels: {app: llama}}\n  targetPorts: [{number: 8000}]\n";

/// A directory that is removed when the test ends, and what follows it.
struct Bench {
    path: PathBuf,
    followed: ConfigDir,
    fleet: Fleet,
    readiness: Readiness,
    failures: AtomicUsize,
}

impl Bench {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kthena-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self {
            followed: ConfigDir::new(&path).unwrap(),
            path,
            fleet: Fleet::new(Profile::default()),
            readiness: Readiness::default(),
            failures: AtomicUsize::new(0),
        }
    }

    fn write(&self, name: &str, text: &str) {
        // By rename, as editors and ConfigMaps do: the inode changes even within a clock tick.
        let temporary = self.path.join(format!(".{name}.new"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path.join(name)).unwrap();
    }

    fn poll(&mut self) -> bool {
        let failed = || {
            self.failures.fetch_add(1, Ordering::Relaxed);
        };
        self.followed.poll(&self.fleet, &self.readiness, &failed)
    }

    fn error(&self) -> String {
        self.followed.declarations.status.load().last_error.clone().unwrap_or_default()
    }

    fn pools(&self) -> usize {
        self.followed.declarations.resources.load().inference_pools.len()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
fn a_directory_is_read_once_and_again_when_it_changes() {
    let mut bench = Bench::new("changes");
    bench.write("pool.yaml", POOL);
    bench.write("notes.txt", "not a manifest: [");
    assert!(bench.poll());
    assert!(bench.readiness.is_ready());
    assert!(!bench.poll(), "nothing changed");
    bench.write("pool2.yml", &POOL.replace("llama", "other"));
    assert!(bench.poll());
    assert_eq!((bench.pools(), bench.followed.declarations.status.load().generation), (2, 2));
    fs::remove_file(bench.path.join("pool.yaml")).unwrap();
    assert!(bench.poll());
    assert_eq!(bench.pools(), 1);
    assert_eq!(bench.followed.declarations.status.load().generation, 3);
}

#[test]
fn a_bad_file_keeps_the_last_good_state_and_says_where_it_is_bad() {
    let mut bench = Bench::new("bad");
    bench.write("pool.yaml", POOL);
    assert!(bench.poll());
    bench.write("pool.yaml", &POOL.replace("8000", "80000"));
    bench.write("route.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n");
    assert!(!bench.poll());
    assert!(!bench.poll(), "the same error is told once");
    let error = bench.error();
    assert!(error.contains("pool.yaml: line 6: spec.targetPorts[0].number: "), "{error}");
    assert_eq!((bench.pools(), bench.failures.load(Ordering::Relaxed)), (1, 1));
    assert!(bench.followed.declarations.resources.load().pods.is_empty(), "half of the directory is in use");
    bench.write("pool.yaml", POOL);
    assert!(bench.poll());
    assert_eq!(bench.error(), "");
}

#[test]
fn a_bad_directory_at_start_leaves_the_picker_unready() {
    let mut bench = Bench::new("start");
    bench.write("pool.yaml", "kind: [");
    assert!(!bench.poll());
    assert!(!bench.readiness.is_ready());
}

#[test]
fn the_same_object_twice_names_both_files() {
    let mut bench = Bench::new("twice");
    bench.write("a.yaml", POOL);
    bench.write("b.yaml", &format!("---\n{POOL}"));
    assert!(!bench.poll());
    let error = bench.error();
    assert!(error.starts_with("InferencePool default/llama is in "), "{error}");
    assert!(error.contains("a.yaml line 1") && error.contains("b.yaml line 2"), "{error}");
}

#[test]
fn an_object_that_cannot_be_names_file_and_field() {
    let mut bench = Bench::new("invalid");
    bench.write("a.yaml", &POOL.replace("app: llama", ""));
    assert!(!bench.poll());
    let error = bench.error();
    assert!(error.contains("a.yaml line 1: InferencePool default/llama: spec.selector.matchLabels: "), "{error}");
}

#[test]
fn a_swapped_link_is_a_change() {
    let mut bench = Bench::new("link");
    let versions = bench.path.join("..data");
    fs::create_dir_all(bench.path.join("..v1")).unwrap();
    fs::create_dir_all(bench.path.join("..v2")).unwrap();
    fs::write(bench.path.join("..v1/pool.yaml"), POOL).unwrap();
    fs::write(bench.path.join("..v2/pool.yaml"), POOL.replace("name: llama", "name: swept")).unwrap();
    std::os::unix::fs::symlink("..v1", &versions).unwrap();
    std::os::unix::fs::symlink("..data/pool.yaml", bench.path.join("pool.yaml")).unwrap();
    assert!(bench.poll());
    std::os::unix::fs::symlink("..v2", bench.path.join("..next")).unwrap();
    fs::rename(bench.path.join("..next"), &versions).unwrap();
    assert!(bench.poll());
    let resources = bench.followed.declarations.resources.load();
    assert_eq!(resources.inference_pools[0].metadata.name.as_deref(), Some("swept"));
}

#[test]
fn a_directory_that_does_not_exist_is_an_error() {
    let error = ConfigDir::new(Path::new("no-such-directory")).unwrap_err();
    assert!(error.to_string().contains("no-such-directory"));
}
