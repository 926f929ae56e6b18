//! The same hand-off with the ranks' KV on accelerators: through the vendors' C ABIs, whose runtimes are emulated here, one process for
//! each rank and one Gaudi for each process.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::prompts::two_chunks_and_a_tail;
use crate::scene::{Scene, complaint, stdout};

const ANSWER: &str = "24";

/// Builds the emulated runtime of a device crate, and finds the file where cargo says that it is.
fn fake(package: &str, example: &str, features: &[&str]) -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--message-format", "json", "-p", package, "--example", example]);
    let output = build.args(features).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
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
    fake("kv-device-hpu", "fake_synapse", &[])
}

/// A decode on Gaudis, of which the host has so many.
fn decode(scene: &Scene, id: &str, tp: &str, modules: u32) -> std::process::Output {
    let locks = scene.path().join("locks");
    std::fs::create_dir_all(&locks).unwrap();
    let arguments = ["--device", "hpu", "--tp", tp, "--request", id, "--max-tokens", ANSWER];
    let mut command = scene.command("decode", &arguments);
    command.env("KVBRIDGE_SYNAPSE_LIBRARY", fake_synapse());
    command.env("KV_FAKE_SCRIPT", format!("set modules {modules}; set locks {}", locks.display()));
    command.output().unwrap()
}

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
        stdout(&decode(&scene, &id, consumers, 9));
        assert_answer(&scene, &reference, consumers);
    }
    scene.assert_nothing_is_left_over();
}

#[test]
fn a_rank_without_a_gaudi_is_named() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let id = scene.prefill("1");
    let complaint = complaint(&decode(&scene, &id, "3", 2));
    assert!(complaint.contains("of 3 failed") && complaint.contains("synNoDeviceFound (8)"), "{complaint}");
    scene.assert_nothing_is_left_over();
}

#[test]
fn amd_accelerators_hand_over_to_gaudis() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let reference = scene.reference(ANSWER);
    let hip = fake("kv-device-rocm", "fake_hip", &["--features", "emulation"]);
    let mut prefill = scene.command("prefill", &["--device", "rocm", "--tp", "3"]);
    let id = stdout(&prefill.env("KVBRIDGE_HIP_LIBRARY", hip).output().unwrap());
    stdout(&decode(&scene, id.trim_end(), "1", 8));
    assert_answer(&scene, &reference, "rocm 3 -> hpu 1");
    scene.assert_nothing_is_left_over();
}
