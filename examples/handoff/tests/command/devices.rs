//! The same hand-off with the ranks' KV on accelerators: through the vendors' C ABIs, whose runtimes are emulated here, one process for
//! each rank and one Gaudi for each process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::prompts::two_chunks_and_a_tail;
use crate::scene::{Running, Scene, complaint, stdout};

const ANSWER: &str = "24";

/// Builds the emulated runtime of a device crate, with the features that `cargo xtask test` has built it with already, and finds the
/// file where cargo says that it is.
fn fake(example: &str) -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--message-format", "json", "--workspace", "--all-features"]);
    build.args(["--example", example]).current_dir(env!("CARGO_MANIFEST_DIR"));
    // What the runner says of this package makes build scripts of dependencies run again, and all that stands on them.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            build.env_remove(name);
        }
    }
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let built = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let names = built.filter(|message| message["target"]["name"] == example).find_map(|message| {
        let file =
            message["filenames"].as_array()?.iter().find(|file| file.as_str().unwrap().ends_with(".so"))?;
        Some(file.as_str()?.to_owned())
    });
    names.unwrap().into()
}

fn fake_synapse() -> PathBuf {
    fake("fake_synapse")
}

/// A prefill on AMD accelerators; its request's id.
#[track_caller]
fn prefill(scene: &Scene, tp: &str, more: &[&str]) -> String {
    let hip = fake("fake_hip");
    let mut command = scene.command("prefill", &[&["--device", "rocm", "--tp", tp], more].concat());
    let output = command.env("KVBRIDGE_HIP_LIBRARY", hip).spawn().map(Running::of).unwrap().finish();
    stdout(&output).trim_end().to_owned()
}

/// A decode on Gaudis, of which the host has so many.
fn decode(scene: &Scene, id: &str, tp: &str, modules: u32, more: &[&str]) -> Output {
    let locks = scene.path().join("locks");
    std::fs::create_dir_all(&locks).unwrap();
    let arguments = ["--device", "hpu", "--tp", tp, "--request", id, "--max-tokens", ANSWER];
    let mut command = scene.command("decode", &[&arguments, more].concat());
    command.env("KVBRIDGE_SYNAPSE_LIBRARY", fake_synapse());
    command.env("KV_FAKE_SCRIPT", format!("set modules {modules}; set locks {}", locks.display()));
    command.spawn().map(Running::of).unwrap().finish()
}

#[track_caller]
fn assert_answer(scene: &Scene, reference: &Value, case: &str) {
    let report = scene.report("decode");
    for field in ["tokens", "logits_digest", "text"] {
        assert_eq!(report[field], reference[field], "{case}: {field}");
    }
    let prompt_tokens = reference["prompt_tokens"].as_u64().unwrap();
    assert_eq!(
        (report["loaded_tokens"].as_u64(), &report["stopped"]),
        (Some(prompt_tokens - 1), &Value::Null)
    );
}

#[test]
fn gaudis_answer_like_the_reference_whatever_the_sizes_of_the_groups() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let reference = scene.reference(ANSWER);
    let id = scene.prefill("3");
    for consumers in ["1", "3", "9"] {
        stdout(&decode(&scene, &id, consumers, 9, &[]));
        assert_answer(&scene, &reference, consumers);
    }
    scene.assert_nothing_is_left_over();
}

#[test]
fn a_rank_without_a_gaudi_is_named() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let id = scene.prefill("1");
    let complaint = complaint(&decode(&scene, &id, "3", 2, &[]));
    assert!(complaint.contains("of 3 failed") && complaint.contains("synNoDeviceFound (8)"), "{complaint}");
    scene.assert_nothing_is_left_over();
}

/// Three AMD accelerators to one Gaudi, whatever the model.
#[track_caller]
pub(crate) fn amd_accelerators_hand_over_to_a_gaudi(scene: &Scene) {
    let reference = scene.reference(ANSWER);
    let id = prefill(scene, "3", &[]);
    stdout(&decode(scene, &id, "1", 8, &[]));
    assert_answer(scene, &reference, "rocm 3 -> hpu 1");
    scene.assert_nothing_is_left_over();
}

#[test]
fn three_amd_accelerators_hand_over_to_a_gaudi() {
    amd_accelerators_hand_over_to_a_gaudi(&Scene::seeded(two_chunks_and_a_tail()));
}

/// Bytes of a head in a token: 16 dims of bf16.
const HEAD: usize = 32;
const LAYERS: usize = 4;
const HEADS: usize = 8;

/// What the ranks of a group have exported, of all heads: `[layer][K, V][token][head][dim]`. Every head was there so many times, and
/// each time the same.
#[track_caller]
fn joined(directory: &Path, ranks: usize, replicas: usize) -> Vec<u8> {
    // By the head that it begins with: the copies, each of so many heads.
    let mut found: BTreeMap<usize, Vec<(usize, Vec<u8>)>> = BTreeMap::new();
    for rank in 0..ranks {
        let first = rank * HEADS / ranks;
        let end = first + (HEADS / ranks).max(1);
        let file = directory.join(format!("rank-{rank}-heads-{first}-{end}.kv"));
        let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        found.entry(first).or_default().push((end - first, bytes));
    }
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), ranks);
    for (head, copies) in &found {
        assert!(copies.len() == replicas && copies.windows(2).all(|two| two[0] == two[1]), "head {head}");
    }
    let parts: Vec<&(usize, Vec<u8>)> = found.values().map(|copies| &copies[0]).collect();
    let rows = parts[0].1.len() / (parts[0].0 * HEAD);
    let row = |row: usize| {
        parts.iter().flat_map(move |(heads, bytes)| &bytes[row * heads * HEAD..][..heads * HEAD])
    };
    (0..rows).flat_map(row).copied().collect()
}

/// A model of 8 KV heads on 16 Gaudis, two of which hold the same head, after 8 AMD accelerators have saved it.
#[test]
fn sixteen_gaudis_hold_what_eight_amd_accelerators_have_computed() {
    let scene = Scene::seeded_with_heads("16x8", two_chunks_and_a_tail());
    let folder = |role: &str| {
        let path = scene.path().join(format!("kv-of-{role}"));
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (original, saved, loaded) = (folder("reference"), folder("prefill"), folder("decode"));
    stdout(&scene.run("reference", &["--max-tokens", ANSWER, "--export", original.to_str().unwrap()]));
    let reference = scene.report("reference");
    let id = prefill(&scene, "8", &["--export", saved.to_str().unwrap()]);
    stdout(&decode(&scene, &id, "16", 16, &["--export", loaded.to_str().unwrap()]));
    assert_answer(&scene, &reference, "rocm 8 -> hpu 16");

    let tokens = usize::try_from(reference["prompt_tokens"].as_u64().unwrap() - 1).unwrap();
    let original = joined(&original, 1, 1);
    assert_eq!(original.len(), LAYERS * 2 * tokens * HEADS * HEAD);
    let distinct = original.chunks_exact(HEAD).collect::<std::collections::BTreeSet<_>>().len();
    // Not all: V of the first layer depends on the token alone.
    assert!(
        distinct * 10 > original.len() / HEAD * 8,
        "KV that repeats itself hides mistakes: {distinct} rows"
    );
    assert!(joined(&saved, 8, 1) == original, "what the producers have is not the original");
    assert!(joined(&loaded, 16, 2) == original, "what the consumers have is not the original");
    scene.assert_nothing_is_left_over();
}
