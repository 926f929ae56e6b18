//! The seeded model's KV goes from any group to any other, and a store that lost or damaged some of it is no danger.

use std::fs;

use serde_json::Value;

use crate::prompts::two_chunks_and_a_tail;
use crate::scene::{Scene, complaint, stdout};
use crate::store_files;

const ANSWER: &str = "24";

/// Every size of group B after one size of group A.
fn every_consumer_answers_like_the_reference(producers: &str) {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let reference = scene.reference(ANSWER);
    let tokens: Vec<u64> = serde_json::from_value(reference["tokens"].clone()).unwrap();
    assert!(tokens.windows(2).any(|pair| pair[0] != pair[1]), "a dull answer hides mistakes: {tokens:?}");
    let prompt_tokens = reference["prompt_tokens"].as_u64().unwrap();
    assert!((513..768).contains(&(prompt_tokens - 1)), "two full chunks and a tail: {prompt_tokens}");

    let id = scene.prefill(producers);
    let saved = scene.report("prefill");
    assert_eq!(saved["saved_tokens"], prompt_tokens - 1);
    assert_eq!(saved["request_id"], id.as_str());
    // 4 layers, K and V, 3 heads of 16, 2 bytes; 3 chunks of 3 slices: the same whatever the number of ranks.
    assert_eq!(saved["kv_bytes"], (prompt_tokens - 1) * 4 * 2 * 3 * 16 * 2);
    assert_eq!((&saved["objects"], &saved["deduplicated"]), (&9.into(), &0.into()));

    for consumers in ["1", "3", "9"] {
        let case = format!("{producers} -> {consumers}");
        let text =
            stdout(&scene.run("decode", &["--tp", consumers, "--request", &id, "--max-tokens", ANSWER]));
        assert_eq!(text, format!("{}\n", reference["text"].as_str().unwrap()), "{case}");
        let report = scene.report("decode");
        for field in ["tokens", "logits_digest", "text"] {
            assert_eq!(report[field], reference[field], "{case}: {field}");
        }
        assert_eq!(report["loaded_tokens"], prompt_tokens - 1, "{case}");
        assert_eq!(report["prefilled_tokens"], 1, "{case}");
        assert_eq!(report["stopped"], Value::Null, "{case}");
        // Ranks with the same heads each verify their own copy: 4 layers x K and V x 3 chunks for each head held.
        let held = if consumers == "9" { 9 } else { 3 };
        assert_eq!(report["verified_sections"], 8 * 3 * held, "{case}");
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
fn a_lost_object_shortens_the_load_to_the_chunk_before_it() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let reference = scene.reference(ANSWER);
    let prompt_tokens = reference["prompt_tokens"].as_u64().unwrap();
    let id = scene.prefill("3");
    // From the end to the start, each loss before the one that came earlier: the tail, a full chunk, the first chunk.
    for (tp, chunk, slice, left) in [("3", 2, 0, 512), ("9", 1, 2, 256), ("1", 0, 1, 0)] {
        fs::remove_file(store_files::object(&scene.root(), chunk, slice)).unwrap();
        let arguments = ["--tp", tp, "--request", &id, "--max-tokens", ANSWER];

        let complaint = complaint(&scene.run("decode", &arguments));
        let expected = format!("only {left} of {} prompt tokens could be loaded", prompt_tokens - 1);
        assert!(complaint.contains(&expected), "{complaint}");
        assert!(complaint.contains(&format!("chunk {chunk}: NotFound")), "{complaint}");
        assert_eq!(scene.report("decode")["loaded_tokens"], left);

        stdout(&scene.run("decode", &[&arguments[..], &["--policy", "recompute"]].concat()));
        let report = scene.report("decode");
        assert_eq!(report["loaded_tokens"], left);
        assert_eq!(report["prefilled_tokens"], prompt_tokens - left);
        for field in ["tokens", "logits_digest", "text"] {
            assert_eq!(report[field], reference[field], "{left} tokens loaded: {field}");
        }
    }
    scene.assert_nothing_is_left_over();
}

#[test]
fn a_damaged_object_is_named_taken_away_and_healed() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let reference = scene.reference(ANSWER);
    let prompt_tokens = reference["prompt_tokens"].as_u64().unwrap();
    let mut id = scene.prefill("1");
    let object = store_files::object(&scene.root(), 1, 2);

    for policy in ["fail", "recompute"] {
        store_files::damage(&object);
        let arguments = ["--tp", "3", "--request", &id, "--max-tokens", ANSWER, "--policy", policy];
        let output = scene.run("decode", &arguments);
        let report = scene.report("decode");
        assert_eq!(report["loaded_tokens"], 256, "{policy}");
        let reason = report["stopped"].as_str().unwrap();
        assert!(reason.contains("rank 2: chunk 1: Corrupt"), "{reason}");
        if policy == "fail" {
            let complaint = complaint(&output);
            assert!(complaint.contains("only 256 of"), "{complaint}");
            assert!(complaint.contains("Corrupt"), "{complaint}");
        } else {
            stdout(&output);
            assert_eq!(report["prefilled_tokens"], prompt_tokens - 256);
            assert_eq!(report["tokens"], reference["tokens"]);
            assert_eq!(report["logits_digest"], reference["logits_digest"]);
        }
        assert!(!object.exists(), "a damaged object is served to nobody else");

        id = scene.prefill("1");
        let saved = scene.report("prefill");
        assert_eq!((&saved["objects"], &saved["deduplicated"]), (&9.into(), &8.into()), "{policy}");
    }
    stdout(&scene.run("decode", &["--tp", "3", "--request", &id, "--max-tokens", ANSWER]));
    assert_eq!(scene.report("decode")["loaded_tokens"], prompt_tokens - 1);
}

#[test]
fn another_prompt_gets_only_the_chunks_that_it_shares() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let id = scene.prefill("1");
    // Another end: the chunks before it are the same tokens, the tail is not.
    let other = format!("{}?", two_chunks_and_a_tail());
    fs::write(scene.path().join("prompt"), other).unwrap();
    let complaint = complaint(&scene.run("decode", &["--request", &id]));
    assert!(complaint.contains("only 512 of 662 prompt tokens"), "{complaint}");
    assert!(complaint.contains("hands over 661 tokens of another prompt"), "{complaint}");
}
