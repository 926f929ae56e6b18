//! SmolLM2-135M-Instruct from cluster to cluster, where `KVBRIDGE_MODEL` names its GGUF file; skipped, and said so,
//! where it does not.

use std::path::PathBuf;

use crate::devices::amd_accelerators_hand_over_to_a_gaudi;
use crate::prompts::LONG;
use crate::scene::{Scene, stdout};

const ANSWER: &str = "8";

fn scene(prompt: &str) -> Option<Scene> {
    let path = std::env::var_os("KVBRIDGE_MODEL").map(PathBuf::from);
    if path.is_none() {
        eprintln!("SKIPPED: KVBRIDGE_MODEL does not name the GGUF file of SmolLM2-135M-Instruct");
    }
    path.map(|path| Scene::with_model(&path, prompt))
}

fn every_consumer_answers_like_the_reference(producers: &str) {
    let Some(scene) = scene(LONG) else { return };
    let reference = scene.reference(ANSWER);
    let prompt_tokens = reference["prompt_tokens"].as_u64().unwrap();
    assert!((513..768).contains(&(prompt_tokens - 1)), "two full chunks and a tail: {prompt_tokens}");
    let id = scene.prefill(producers);
    let saved = scene.report("prefill");
    // 30 layers, K and V, 3 heads of 64, 2 bytes.
    assert_eq!(saved["kv_bytes"], (prompt_tokens - 1) * 30 * 2 * 3 * 64 * 2);
    for consumers in ["1", "3", "9"] {
        let case = format!("{producers} -> {consumers}");
        stdout(&scene.run("decode", &["--tp", consumers, "--request", &id, "--max-tokens", ANSWER]));
        let report = scene.report("decode");
        for field in ["tokens", "logits_digest", "text"] {
            assert_eq!(report[field], reference[field], "{case}: {field}");
        }
        assert_eq!(report["loaded_tokens"], prompt_tokens - 1, "{case}");
        assert_eq!(report["prefilled_tokens"], 1, "{case}");
    }
    scene.assert_nothing_is_left_over();
}

#[test]
fn one_rank_hands_over_to_groups_of_every_size() {
    every_consumer_answers_like_the_reference("1");
}

#[test]
fn three_ranks_hand_over_to_groups_of_every_size() {
    every_consumer_answers_like_the_reference("3");
}

#[test]
fn nine_ranks_hand_over_to_groups_of_every_size() {
    every_consumer_answers_like_the_reference("9");
}

#[test]
fn three_amd_accelerators_hand_over_to_a_gaudi() {
    let Some(scene) = scene(LONG) else { return };
    amd_accelerators_hand_over_to_a_gaudi(&scene);
}

#[test]
fn it_knows_the_capital_of_france_after_a_hand_off() {
    let Some(scene) = scene("What is the capital of France?") else {
        return;
    };
    let id = scene.prefill("3");
    let text = stdout(&scene.run("decode", &["--tp", "1", "--request", &id, "--max-tokens", "24"]));
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(scene.report("decode")["prefilled_tokens"], 1);
}
