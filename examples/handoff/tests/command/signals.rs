//! However a group is ended, no process and nothing partial is left.

use rustix::process::Signal;

use crate::prompts::{LONG, endless, two_chunks_and_a_tail};
use crate::scene::{Running, Scene, eventually, kill, stderr};
use crate::store_files;

/// A decode that cannot end by itself in the time of a test, and has begun: its first text is there.
fn long_decode(scene: &Scene) -> (Running, Vec<u32>) {
    let id = scene.prefill("1");
    let mut decode = scene.start("decode", &["--tp", "3", "--request", &id, "--max-tokens", "7000"]);
    decode.wait_for_output();
    let ranks = decode.ranks();
    assert_eq!(ranks.len(), 3);
    (decode, ranks)
}

/// A prefill that has announced its request, and has seconds of computing before it.
fn long_prefill(scene: &Scene, tp: &str) -> Running {
    let prefill = scene.start("prefill", &["--tp", tp, "--raw"]);
    let ranks: usize = tp.parse().unwrap();
    eventually("all ranks have announced the request", || store_files::records(&scene.root()).len() == ranks);
    prefill
}

#[track_caller]
fn assert_stopped(running: Running, scene: &Scene, signal: i32) {
    let output = running.finish();
    assert_eq!(output.status.code(), Some(128 + signal), "{}", stderr(&output));
    let complaint = stderr(&output);
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(
        complaint.ends_with(&format!("stopped by signal {signal}; no rank is left behind\n")),
        "{complaint}"
    );
    scene.assert_nothing_is_left_over();
}

/// Every record of an ended prefill says so: a consumer need not wait.
#[track_caller]
fn assert_aborted(scene: &Scene) {
    for record in store_files::records(&scene.root()) {
        let text = std::fs::read_to_string(&record).unwrap();
        assert!(text.contains("aborted"), "{}: {text}", record.display());
    }
}

#[test]
fn sigterm_to_the_launcher_ends_a_prefill_that_computes() {
    let scene = Scene::seeded(&endless());
    let prefill = long_prefill(&scene, "3");
    prefill.signal(Signal::TERM);
    assert_stopped(prefill, &scene, 15);
    assert_aborted(&scene);
    assert_eq!(store_files::objects(&scene.root()), [] as [std::path::PathBuf; 0]);
}

#[test]
fn ctrl_c_ends_a_prefill_that_computes() {
    let scene = Scene::seeded(&endless());
    let prefill = long_prefill(&scene, "9");
    prefill.signal_all(Signal::INT);
    assert_stopped(prefill, &scene, 2);
    assert_aborted(&scene);
}

/// A prefill with 13 chunks of 3 slices, whose first object has just appeared.
fn saving_prefill(scene: &Scene) -> Running {
    let prefill = scene.start("prefill", &["--tp", "1"]);
    eventually("the first object is there", || !store_files::objects(&scene.root()).is_empty());
    prefill
}

#[test]
fn ctrl_c_ends_a_prefill_that_saves() {
    let scene = Scene::seeded(LONG);
    let prefill = saving_prefill(&scene);
    prefill.signal_all(Signal::INT);
    assert_stopped(prefill, &scene, 2);
    assert_aborted(&scene);
    let objects = store_files::objects(&scene.root()).len();
    assert!((1..39).contains(&objects), "{objects} objects: it was not in the middle of saving");
}

#[test]
fn sigterm_to_the_launcher_ends_a_prefill_that_saves() {
    let scene = Scene::seeded(LONG);
    let prefill = saving_prefill(&scene);
    prefill.signal(Signal::TERM);
    assert_stopped(prefill, &scene, 15);
    assert_aborted(&scene);
    let objects = store_files::objects(&scene.root()).len();
    assert!((1..39).contains(&objects), "{objects} objects: it was not in the middle of saving");
}

#[test]
fn sigterm_to_the_launcher_ends_a_decode_that_answers() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let (decode, _) = long_decode(&scene);
    decode.signal(Signal::TERM);
    assert_stopped(decode, &scene, 15);
}

#[test]
fn ctrl_c_ends_a_decode_that_answers() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let (decode, _) = long_decode(&scene);
    decode.signal_all(Signal::INT);
    assert_stopped(decode, &scene, 2);
}

#[test]
fn ctrl_c_ends_a_decode_that_waits_for_its_request() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let id = "00112233445566778899aabbccddeeff";
    let decode = scene.start("decode", &["--tp", "9", "--request", id, "--deadline", "100000"]);
    eventually("the ranks are there", || decode.ranks().len() == 9);
    decode.signal_all(Signal::INT);
    assert_stopped(decode, &scene, 2);
}

#[test]
fn a_killed_rank_is_named_and_takes_the_group_along() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let (decode, ranks) = long_decode(&scene);
    kill(ranks[1], Signal::KILL);
    let output = decode.finish();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "handoff decode: rank 1 of 3 failed: it was killed by signal 9\n");
    scene.assert_nothing_is_left_over();
}

#[test]
fn a_killed_rank_of_a_prefill_aborts_the_others_requests() {
    let scene = Scene::seeded(&endless());
    let prefill = long_prefill(&scene, "3");
    kill(prefill.ranks()[2], Signal::KILL);
    let output = prefill.finish();
    assert_eq!(stderr(&output), "handoff prefill: rank 2 of 3 failed: it was killed by signal 9\n");
    scene.assert_nothing_is_left_over();
    let records = store_files::records(&scene.root());
    let aborted = |path: &&std::path::PathBuf| std::fs::read_to_string(path).unwrap().contains("aborted");
    assert_eq!((records.len(), records.iter().filter(aborted).count()), (3, 2));
}

#[test]
fn a_killed_launcher_leaves_no_rank() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let (decode, ranks) = long_decode(&scene);
    decode.signal(Signal::KILL);
    drop(decode.finish());
    assert_eq!(ranks.len(), 3);
    eventually("no process lives", || scene.processes().is_empty());
    scene.assert_nothing_is_left_over();
}

#[test]
fn a_killed_launcher_of_a_prefill_leaves_no_rank_and_aborts_the_request() {
    let scene = Scene::seeded(&endless());
    let prefill = long_prefill(&scene, "3");
    prefill.signal(Signal::KILL);
    drop(prefill.finish());
    eventually("no process lives", || scene.processes().is_empty());
    scene.assert_nothing_is_left_over();
    assert_aborted(&scene);
}
