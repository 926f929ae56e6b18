//! Replays the fuzzers' corpora, through the fuzz targets' own source, on the stable toolchain and without a fuzzer.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, clippy::expect_used, reason = "a crate of its own elsewhere")]
mod targets;

/// What the committed corpora may weigh in all.
const MOST_BYTES: usize = 300 << 10;

/// The name of a fuzz target, and what it does with an input.
type Target = (&'static str, fn(&[u8]) -> bool);

const TARGETS: [Target; 3] = [
    ("decode", targets::decode::check),
    ("key_text", targets::key_text::check),
    ("plan", targets::plan::check),
];

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpora().join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn no_input_of_the_corpora_panics() {
    for (target, check) in TARGETS {
        let inputs = inputs(target);
        assert!(inputs.len() > 20, "{} inputs for {target}: a corpus is missing", inputs.len());
        let mut accepted = 0;
        for (path, input) in inputs {
            let outcome = std::panic::catch_unwind(|| check(&input));
            accepted +=
                usize::from(outcome.unwrap_or_else(|_| panic!("{target} fails on {}", path.display())));
        }
        assert!(accepted > 3, "{target}: {accepted} inputs are valid, so little is tried");
        assert!(!check(&[]), "{target}: nothing is not valid");
    }
}

#[test]
fn each_folder_has_a_target_and_all_are_small() {
    let mut folders: Vec<_> = std::fs::read_dir(corpora())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, TARGETS.map(|(name, _)| name));
    let bytes: usize = folders.iter().flat_map(|folder| inputs(folder)).map(|(_, input)| input.len()).sum();
    assert!(bytes <= MOST_BYTES, "{bytes} bytes of inputs, at most {MOST_BYTES}: cargo xtask fuzz --merge");
}
