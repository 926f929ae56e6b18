//! What cannot work is refused with one sentence, and leaves nothing behind.

use std::fs;
use std::process::Command;

use crate::prompts::{LONG, two_chunks_and_a_tail};
use crate::scene::{Scene, complaint, stderr};
use crate::small_disk::SmallDisk;
use crate::store_files;

/// The complaint of a prefill that is refused before any process or file was made.
#[track_caller]
fn refused(scene: &Scene, arguments: &[&str]) -> String {
    let sentence = complaint(&scene.run("prefill", arguments));
    assert!(!scene.path().join("prefill.json").exists());
    scene.assert_nothing_is_left_over();
    sentence
}

#[track_caller]
fn assert_says(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(sentence.contains(word), "{sentence:?} does not say {word:?}");
    }
}

#[test]
fn groups_that_cannot_share_the_heads() {
    for tp in ["0", "2", "4", "27"] {
        let scene = Scene::seeded(two_chunks_and_a_tail());
        let sentence = refused(&scene, &["--tp", tp]);
        assert_says(&sentence, &[&format!("by {tp} ranks"), "choose --tp from [1, 3, 9]"]);
        store_files::assert_empty(&scene.root());
    }
}

#[test]
fn stores_that_are_none() {
    for (url, words) in [
        ("ftp://host/kv", "unknown scheme"),
        ("/tmp/kv", "expected"),
        ("file://relative/kv", "expected three slashes"),
        ("file:///no/such/directory", "no such directory"),
        ("memory://", "two clusters cannot meet in memory://"),
        ("null://", "two clusters cannot meet in null://"),
    ] {
        let scene = Scene::seeded(two_chunks_and_a_tail()).with_store(url);
        let request = ["--request", "00112233445566778899aabbccddeeff"];
        for role in ["prefill", "decode"] {
            assert_says(&complaint(&scene.run(role, &request)), &[words]);
            assert_eq!(scene.processes(), [] as [u32; 0]);
        }
    }
}

#[test]
fn directories_that_nobody_formatted() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let bare = scene.path().join("bare");
    fs::create_dir(&bare).unwrap();
    let url = format!("file://{}", bare.display());
    let scene = scene.with_store(&url);
    assert_says(&refused(&scene, &[]), &["no store yet", "format the directory once", &url]);
    assert_eq!(fs::read_dir(&bare).unwrap().count(), 0);
    for (url, words) in
        [("memory://", "two clusters cannot meet"), ("file:///no/such/directory", "no such directory")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_handoff")).args(["format", "--store", url]).output();
        assert_says(&complaint(&output.unwrap()), &[words]);
    }
}

#[test]
fn arguments_that_make_no_sense() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    for (role, arguments, words) in [
        ("decode", &["--request", "xyz"][..], "32 hexadecimal digits"),
        ("decode", &[], "--request"),
        ("prefill", &["--deadline", "0"], "0 is not in 1.."),
        ("prefill", &["--tp", "-1"], "'-1'"),
        ("prefill", &["--model", "x"], "cannot be used with"),
    ] {
        let output = scene.run(role, arguments);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert_says(stderr(&output).lines().next().unwrap_or_default(), &["error: "]);
        assert_says(&stderr(&output), &[words]);
    }
    store_files::assert_empty(&scene.root());
}

#[test]
fn a_directory_below_a_file() {
    let scene = Scene::seeded(two_chunks_and_a_tail());
    let file = scene.path().join("file");
    fs::write(&file, "").unwrap();
    let url = format!("file://{}/store", file.display());
    let scene = scene.with_store(&url);
    assert_says(&refused(&scene, &["--tp", "9"]), &[&url[7..], "not a directory"]);
}

#[test]
fn a_directory_that_cannot_be_written() {
    let Some(disk) = SmallDisk::mount() else { return };
    disk.make_read_only();
    let scene = Scene::seeded(two_chunks_and_a_tail()).with_store(&disk.url());
    let sentence = refused(&scene, &["--tp", "9"]);
    assert_says(&sentence, &[&disk.url()[7..], "Read-only file system"]);
    store_files::assert_empty(disk.path());
}

#[test]
fn a_disk_that_becomes_full() {
    for tp in ["1", "9"] {
        let Some(disk) = SmallDisk::mount() else { return };
        // About 2.4 MB of KV for a disk of 1 MiB.
        let scene = Scene::seeded(LONG).with_store(&disk.url());
        let sentence = complaint(&scene.run("prefill", &["--tp", tp]));
        assert_says(&sentence, &["handoff prefill: rank ", "No space left on device", "free space"]);
        assert_eq!(sentence.matches("No space left").count(), 1, "said once: {sentence}");
        assert!(!store_files::objects(disk.path()).is_empty(), "the disk was not full from the start");
        scene.assert_nothing_is_left_over();
    }
}

#[test]
fn models_that_are_none() {
    let directory = tempfile::TempDir::new().unwrap();
    let garbage = directory.path().join("garbage.gguf");
    fs::write(&garbage, "not a model at all, but long enough to look at").unwrap();
    let missing = directory.path().join("missing.gguf");
    for (model, words) in [(&garbage, "not a GGUF file"), (&missing, "No such file")] {
        let scene = Scene::with_model(model, "Hello");
        let sentence = refused(&scene, &["--tp", "3"]);
        assert_says(&sentence, &[model.to_str().unwrap(), words]);
        store_files::assert_empty(&scene.root());
    }
}

#[test]
fn prompts_that_are_none() {
    for (prompt, arguments, words) in
        [("", &["--raw"][..], "at least 2"), (&*"long ".repeat(2000), &[], "the model's context has 8192")]
    {
        let scene = Scene::seeded(prompt);
        assert_says(&complaint(&scene.run("prefill", arguments)), &[words]);
        scene.assert_nothing_is_left_over();
    }
}
