//! SmolLM2-135M-Instruct, where `KVBRIDGE_MODEL` names its GGUF file; skipped, and said so, where it does not.

#![expect(clippy::print_stdout, reason = "a skipped test says so")]

use std::path::PathBuf;

use handoff::engine::flavour::Flavour;
use handoff::model::ModelChoice;
use handoff::roles::reference::{self, Files};

fn model() -> Option<ModelChoice> {
    let path = std::env::var_os("KVBRIDGE_MODEL").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: KVBRIDGE_MODEL does not name the GGUF file of SmolLM2-135M-Instruct");
    }
    path.map(ModelChoice::File)
}

/// Words, single digits, contractions, accents, characters of several tokens. The ids come from a second, plain BPE
/// over pieces that were split by hand.
const KNOWN: &[(&str, &[u32])] = &[
    ("Hello world", &[19556, 905]),
    ("It's 2026, isn't it?", &[1589, 506, 216, 34, 32, 34, 38, 28, 3247, 982, 357, 47]),
    (
        "café naïve — 東京 🦀",
        &[83, 1939, 2756, 15486, 46494, 1841, 17097, 247, 126, 16736, 122, 15107, 116, 218],
    ),
    ("line one\n\n  indented\tx", &[1311, 582, 8866, 641, 6574, 197, 104]),
];

#[test]
fn it_knows_the_capital_of_france_on_both_engines() {
    let Some(model) = model() else { return };
    let tokens = model.tokenizer().unwrap().encode_chat("What is the capital of France?").unwrap();
    let weights = model.weights().unwrap();
    assert_eq!(weights.config().weight_quantisation, "q4_1+q8_0");
    let answer = |flavour, threads| {
        let mut text = Vec::new();
        let answer =
            reference::run(&model, &tokens, 16, flavour, threads, &mut text, Files::default()).unwrap();
        assert_eq!(String::from_utf8(text).unwrap().trim_end(), answer.text);
        answer
    };
    let a = answer(Flavour::AmdLike, 2);
    assert_eq!(a.text, "The capital of France is Paris.");
    assert_eq!(a.tokens, [504, 3575, 282, 4649, 314, 7042, 30, 2]);
    assert_eq!(a, answer(Flavour::GaudiLike, 1), "tokens, text and the digest of all logits");
}

#[test]
fn its_tokenizer_gives_the_known_ids_and_decodes_them_back() {
    let Some(model) = model() else { return };
    let tokenizer = model.tokenizer().unwrap();
    for (text, ids) in KNOWN {
        assert_eq!(tokenizer.encode(text).unwrap(), *ids, "{text:?}");
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.bytes_of(*id)).collect();
        assert_eq!(str::from_utf8(&bytes), Ok(*text));
    }
    let chat = tokenizer.encode_chat("Hi").unwrap();
    assert_eq!(chat[..2], [1, 9690], "<|im_start|>system");
    assert!(tokenizer.stop_tokens().contains(&2), "<|im_end|>");
    assert_eq!(tokenizer.bytes_of(2), b"");
}
