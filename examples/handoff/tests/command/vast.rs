//! The hand-off over a VAST cluster of two paths, configured by the mission's two files as they stand.

use std::fs;
use std::os::unix::fs::symlink;

use crate::prompts::two_chunks_and_a_tail;
use crate::scene::{Scene, complaint, stdout};

const ANSWER: &str = "24";
const PREFILL: &str = include_str!("../../../../kv-storage/tests/vast/mission/lmcache_prefill_config.yaml");
const DECODE: &str = include_str!("../../../../kv-storage/tests/vast/mission/lmcache_decode_config.yaml");

/// Two paths to one directory stand for two mounts of one export.
fn scene() -> Scene {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let (mount, link) = (scene.path().join("mount"), scene.path().join("link"));
    fs::create_dir(&mount).unwrap();
    symlink(&mount, &link).unwrap();
    let json = format!(
        r#"{{"vast-cluster": {{"paths": [{{"url": "file://{}"}}, {{"url": "file://{}"}}]}}}}"#,
        mount.display(),
        link.display()
    );
    scene.with_clusters(&json)
}

#[test]
fn the_missions_two_files_name_the_store_in_which_the_clusters_meet() {
    let scene = scene();
    let (prefill, decode) = (scene.path().join("prefill.yaml"), scene.path().join("decode.yaml"));
    fs::write(&prefill, PREFILL).unwrap();
    fs::write(&decode, DECODE).unwrap();
    let (prefill, decode) = (prefill.to_str().unwrap(), decode.to_str().unwrap());
    scene.format(prefill);
    assert!(scene.path().join("mount/kv-cache/kvbridge-store").is_file(), "the URL's directory on the mount");
    let reference = scene.reference(ANSWER);
    let id = stdout(&scene.run("prefill", &["--config", prefill, "--tp", "3"]));
    let arguments = ["--config", decode, "--tp", "1", "--request", id.trim_end(), "--max-tokens", ANSWER];
    let text = stdout(&scene.run("decode", &arguments));
    assert_eq!(text, format!("{}\n", reference["text"].as_str().unwrap()));
    let report = scene.report("decode");
    assert_eq!(report["logits_digest"], reference["logits_digest"]);
    assert_eq!(report["prefilled_tokens"], 1);
}

#[test]
fn a_path_that_does_not_open_is_told_and_the_other_one_is_used() {
    let scene = scene();
    let config = scene.path().join("prefill.yaml");
    fs::write(&config, PREFILL).unwrap();
    let config = config.to_str().unwrap();
    scene.format(config);
    fs::remove_file(scene.path().join("link")).unwrap();
    let output = scene.run("prefill", &["--config", config]);
    assert_eq!(stdout(&output).trim_end().len(), 32, "a request id");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("warning: going on without a path of the cluster: posix:"), "{said}");
    assert!(said.contains("/link/kv-cache: no such directory"), "{said}");
    assert_eq!(said.lines().count(), 1, "once, and not by every rank: {said}");
}

#[test]
fn a_wrong_file_or_an_unknown_cluster_is_told_in_one_sentence_before_any_process_starts() {
    let scene = scene();
    let wrong = scene.path().join("wrong.yaml");
    for (from, to, expected) in [
        ("bandwidth_gbps", "bandwith_gbps", "line 9"),
        (
            "vast-cluster",
            "other-cluster",
            "the cluster \"other-cluster\" is not known, only [\"vast-cluster\"]",
        ),
        ("\"vast\"", "\"s3\"", "expected s3://..., as storage_backend.type says"),
        ("storage_backend", "storage", "storage"),
    ] {
        fs::write(&wrong, PREFILL.replace(from, to)).unwrap();
        let output = scene.run("prefill", &["--config", wrong.to_str().unwrap()]);
        let said = complaint(&output);
        assert!(said.contains(expected), "{to}: {said}");
    }
}
