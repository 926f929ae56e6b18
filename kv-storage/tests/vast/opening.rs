//! From a configuration to a store: the mission's two files, clusters, directories, bandwidth.

use kv_storage::env::Environment;
use kv_storage::vast::{CLUSTERS_VARIABLE, Clusters, StorageBackend};
use kv_storage::{ErrorKind, HealthGate};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::Instant;

use super::*;

/// The file around the section: other sections are another's to read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    storage_backend: StorageBackend,
    #[serde(rename = "version")]
    _version: IgnoredAny,
    #[serde(rename = "role")]
    _role: IgnoredAny,
    #[serde(rename = "cache_config")]
    _cache_config: IgnoredAny,
    #[serde(rename = "device")]
    _device: IgnoredAny,
}

const PREFILL: &str = include_str!("mission/lmcache_prefill_config.yaml");
const DECODE: &str = include_str!("mission/lmcache_decode_config.yaml");

//= SEMANTICS.md#vast-settings
#[test]
fn the_missions_two_files_load_as_they_stand() {
    for (text, rate) in [(PREFILL, 25.0), (DECODE, 20.0)] {
        let section = serde_saphyr::from_str::<File>(text).unwrap().storage_backend;
        section.check().unwrap();
        assert_eq!(section.config.path, "vast://vast-cluster/kv-cache");
        assert_eq!(section.config.bandwidth_gbps, Some(rate));
    }
}

//= SEMANTICS.md#vast-settings
#[test]
fn what_is_no_storage_section_is_refused_with_its_line() {
    let wrong = [
        ("    bandwidth_gbps: 25", "    bandwith_gbps: 25", "bandwith_gbps", 9),
        ("  type: \"vast\"", "  type: \"tape\"", "tape", 6),
        ("  config:", "  speed: fast\n  config:", "speed", 7),
        ("    path:", "    paths:", "paths", 8),
        ("    bandwidth_gbps: 25", "    bandwidth_gbps: fast", "floating point", 9),
    ];
    for (from, to, named, line) in wrong {
        let text = PREFILL.replace(from, to);
        assert_ne!(text, PREFILL);
        let error = serde_saphyr::from_str::<File>(&text).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert!(error.contains(&format!("line {line} ")), "line {line} is not in: {error}");
    }
    for (from, to, expected) in [
        ("\"vast\"", "\"s3\"", "expected s3://..., as storage_backend.type says"),
        ("vast://vast-cluster", "file://", "expected vast://"),
        ("gbps: 25", "gbps: 0", "is 0: expected gigabytes per second"),
        ("gbps: 25", "gbps: -25", "is -25"),
        ("gbps: 25", "gbps: .nan", "is NaN"),
        ("gbps: 25", "gbps: .inf", "is inf"),
    ] {
        let text = PREFILL.replace(from, to);
        let error = serde_saphyr::from_str::<File>(&text).unwrap().storage_backend.check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

//= SEMANTICS.md#vast-bandwidth
#[tokio::test(start_paused = true)]
async fn bandwidth_is_in_gigabytes_per_second_each_way() {
    let text = PREFILL.replace("gbps: 25", "gbps: 0.001");
    let section = serde_saphyr::from_str::<File>(&text).unwrap().storage_backend;
    let store = section.cap(Arc::new(MemoryStore::new()), Environment::default());
    let began = Instant::now();
    for n in 0..20 {
        publish(&*store, &name(n), &vec![1; 100_000]).await.unwrap();
    }
    // 2 MB at 1 MB/s, of which a hundredth of a second's worth passes at once.
    let took = began.elapsed().as_millis();
    assert!((1980..=2030).contains(&took), "{took} ms");
    let began = Instant::now();
    read(&*store, &name(1), 100_000).await.unwrap().unwrap();
    assert!((80..=110).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

fn clusters(text: &str) -> Clusters {
    Clusters::from_json(text).unwrap()
}

//= SEMANTICS.md#vast-clusters
#[test]
fn a_clusters_paths_lead_to_the_directory_that_the_url_names() {
    let clusters = clusters(
        r#"{"c": {"paths": [{"url": "file:///mnt/a/"}, {"url": "s3://bucket/base?endpoint=https://v:443", "kind": "x"}]}, "d": {"paths": [{"url": "file:///mnt/d"}]}}"#,
    );
    let urls = |url: &str| clusters.urls(url).unwrap();
    assert_eq!(
        urls("vast://c/kv/cache/"),
        ["file:///mnt/a/kv/cache", "s3://bucket/base/kv/cache?endpoint=https://v:443"]
    );
    assert_eq!(urls("vast://c"), ["file:///mnt/a", "s3://bucket/base?endpoint=https://v:443"]);
    for (url, expected) in [
        ("vast://", "expected vast://cluster/directory"),
        ("vast:///kv", "expected vast://cluster/directory"),
        ("vast://c/../etc", "without . or .."),
        ("vast://c/kv?x=1", "without options"),
        ("file:///mnt", "expected vast://"),
        (
            "vast://e/kv",
            r#"the cluster "e" is not known, only ["c", "d"]: add it to the file that KVBRIDGE_VAST names, as in {"#,
        ),
    ] {
        let error = clusters.urls(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(expected), "{url}: {error}");
    }
}

//= SEMANTICS.md#vast-clusters
#[tokio::test]
async fn a_text_without_clusters_is_refused_with_line_and_column() {
    for (text, expected) in [
        ("", "line 1 column 0"),
        ("{\n\"c\": {\"path\": []}}", "unknown field `path`, expected `paths` or `records` at line 2"),
        (r#"{"c": {"paths": [{"url": "file:///m", "king": "x"}]}}"#, "unknown field `king`"),
        (r#"{"c": {"paths": []}}"#, "has no paths"),
    ] {
        let error = Clusters::from_json(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains(r#"{"vast-cluster": {"paths": "#), "says what to write: {error}");
    }
    let records = r#"{"c": {"records": "s3", "paths": [{"url": "file:///m"}]}}"#;
    let error = clusters(records).urls("vast://c/kv").unwrap_err();
    assert!(error.to_string().contains(r#"of the kind "s3", but the kinds are ["file"]"#), "{error}");
    for path in ["memory://", "vast://c", "/mnt/vast", "null://"] {
        let text = format!(r#"{{"c": {{"paths": [{{"url": "{path}"}}]}}}}"#);
        let error = clusters(&text).open("vast://c/kv", VastOptions::default()).await.unwrap_err();
        assert!(error.to_string().contains("no namespace that others share"), "{error}");
    }
    // Nobody sets the variable for tests.
    let error = kv_storage::open("vast://vast-cluster/kv-cache").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains(&format!("{CLUSTERS_VARIABLE} is not set: it names a file")),
        "{error}"
    );
}

//= SEMANTICS.md#vast-open
//= SEMANTICS.md#vast-format
//= SEMANTICS.md#vast-one-namespace
#[tokio::test]
async fn a_cluster_is_formatted_once_and_opens_by_the_paths_that_open() {
    let folder = tempfile::tempdir().unwrap();
    let (mount, link) = (folder.path().join("mount"), folder.path().join("link"));
    std::fs::create_dir(&mount).unwrap();
    std::os::unix::fs::symlink(&mount, &link).unwrap();
    let text = |paths: &[&std::path::Path]| {
        let urls = paths.iter().map(|path| format!(r#"{{"url": "file://{}"}}"#, path.display()));
        format!(r#"{{"c": {{"paths": [{}]}}}}"#, urls.collect::<Vec<_>>().join(", "))
    };
    let both = clusters(&text(&[&mount, &link]));
    let url = "vast://c/kv/cache";
    let error = both.open(url, VastOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("no path opens, 2 in all"), "{error}");
    assert!(error.to_string().ends_with("formatted first, as by `format`"), "{error}");
    assert!(both.format(url).await.unwrap());
    assert!(!both.format(url).await.unwrap(), "formatted twice");
    let opened = both.open(url, VastOptions::default()).await.unwrap();
    assert_eq!((opened.store.paths().len(), opened.left_out.len()), (2, 0));
    assert_eq!(opened.store.to_string(), "vast:c/kv/cache");
    for n in 0..8 {
        publish(&opened.store, &name(n), b"one").await.unwrap();
    }
    // A path that leads nowhere is left out, and what both wrote is there by the other.
    let nowhere = folder.path().join("nowhere");
    let one = clusters(&text(&[&nowhere, &link])).open(url, VastOptions::default()).await.unwrap();
    assert_eq!((one.store.paths().len(), one.left_out.len()), (1, 1));
    assert!(
        one.left_out[0].to_string().contains("nowhere/kv/cache: no such directory"),
        "{:?}",
        one.left_out
    );
    for n in 0..8 {
        assert_eq!(read(&one.store, &name(n), 3).await.unwrap().unwrap(), b"one");
    }
    // And by a store on the mount alone.
    let alone: Arc<dyn KvStore> =
        kv_storage::open(&format!("file://{}/kv/cache", mount.display())).await.unwrap();
    assert_eq!(
        read(&HealthGate::new(alone, Default::default()), &name(3), 3).await.unwrap().unwrap(),
        b"one"
    );
}
