//! Damaged and foreign model files are refused with an error that names the file and the fault.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "functions that only tests call")]

use std::fs;
use std::path::PathBuf;

use handoff::model::gguf::Gguf;
use handoff::model::tokenizer::Tokenizer;
use handoff::model::weights::{Tensor, WeightSource};
use tempfile::TempDir;

/// Writes GGUF files piece by piece.
struct Writer(Vec<u8>);

impl Writer {
    fn text(&mut self, text: &str) {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn metadata(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.text(key);
        self.0.extend(kind.to_le_bytes());
        self.0.extend(value);
    }
}

/// A file with one tensor: an embedding of 4 tokens x 32 dims, of the given type, in 2 heads of 16.
fn model(architecture: &str, ggml_type: u32, payload: usize) -> Vec<u8> {
    let mut file = Writer(b"GGUF".to_vec());
    file.0.extend(3u32.to_le_bytes());
    file.0.extend(1u64.to_le_bytes());
    file.0.extend(7u64.to_le_bytes());
    let mut name = Writer(Vec::new());
    name.text(architecture);
    file.metadata("general.architecture", 8, &name.0);
    let numbers = [
        ("block_count", 1u32),
        ("embedding_length", 32),
        ("feed_forward_length", 48),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("context_length", 64),
    ];
    for (key, number) in numbers {
        file.metadata(&format!("llama.{key}"), 4, &number.to_le_bytes());
    }
    file.text("token_embd.weight");
    file.0.extend(2u32.to_le_bytes());
    file.0.extend(32u64.to_le_bytes());
    file.0.extend(4u64.to_le_bytes());
    file.0.extend(ggml_type.to_le_bytes());
    file.0.extend(0u64.to_le_bytes());
    let start = file.0.len().next_multiple_of(32);
    file.0.resize(start + payload, 0);
    file.0
}

const F32_PAYLOAD: usize = 4 * 32 * 4;

fn open(bytes: &[u8]) -> (TempDir, PathBuf, anyhow::Result<Gguf>) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tiny.gguf");
    fs::write(&path, bytes).unwrap();
    let gguf = Gguf::open(&path);
    (directory, path, gguf)
}

#[track_caller]
fn assert_refused(bytes: &[u8], fault: &str) {
    let (_directory, path, gguf) = open(bytes);
    let error = format!("{:#}", gguf.expect_err("the file should be refused"));
    assert!(error.contains(path.to_str().unwrap()), "{error:?} does not name {path:?}");
    assert!(error.contains(fault), "{error:?} does not say {fault:?}");
}

#[test]
fn a_whole_file_opens_and_gives_rows() {
    let mut bytes = model("llama", 0, F32_PAYLOAD);
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&2.5f32.to_le_bytes());
    let (_directory, _, gguf) = open(&bytes);
    let gguf = gguf.unwrap();
    assert_eq!((gguf.config().vocab, gguf.config().head_dim), (4, 16));
    assert_eq!(gguf.config().weight_quantisation, "none");
    let row = gguf.rows(Tensor::Embedding, 3..4).unwrap();
    assert_eq!((row.len(), row[31]), (32, 2.5));
    assert_eq!(gguf.rows(Tensor::Head, 3..4).unwrap(), row, "tied");
    assert!(gguf.rows(Tensor::Embedding, 3..5).is_err());
    let missing = gguf.rows(Tensor::Gate(0), 0..1).unwrap_err().to_string();
    assert!(missing.contains("blk.0.ffn_gate.weight is missing"), "{missing}");
}

#[test]
fn every_truncation_is_refused() {
    let bytes = model("llama", 0, F32_PAYLOAD);
    for length in 0..bytes.len() {
        assert_refused(&bytes[..length], "truncated");
    }
}

#[test]
fn foreign_files_are_refused() {
    let mut bytes = model("llama", 0, F32_PAYLOAD);
    bytes[0] = b'X';
    assert_refused(&bytes, "not a GGUF file");
    let mut bytes = model("llama", 0, F32_PAYLOAD);
    bytes[4] = 1;
    assert_refused(&bytes, "GGUF version 1, expected 3");
    assert_refused(&model("mamba", 0, F32_PAYLOAD), "the architecture is Some(Text(\"mamba\"))");
}

#[test]
fn unknown_quantisations_are_named() {
    assert_refused(&model("llama", 12, F32_PAYLOAD), "token_embd.weight is quantised with ggml type 12");
}

#[test]
fn wild_lengths_do_not_allocate() {
    let mut bytes = model("llama", 0, F32_PAYLOAD);
    // The length of the first metadata key.
    bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_refused(&bytes, "truncated: a metadata key needs 18446744073709551615 bytes");
}

#[test]
fn a_file_without_a_tokenizer_is_refused() {
    let (_directory, path, gguf) = open(&model("llama", 0, F32_PAYLOAD));
    let error = format!("{:#}", Tokenizer::from_gguf(&gguf.unwrap()).err().expect("there is no tokenizer"));
    assert!(error.contains(path.to_str().unwrap()) && error.contains("tokenizer.ggml.model"), "{error}");
}
