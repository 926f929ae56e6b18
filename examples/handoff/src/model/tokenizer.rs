//! Text to token ids and back: the real model's byte-level BPE, rebuilt from its GGUF, or plain bytes.

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper};

use super::byte_alphabet::byte_of;
use super::gguf::Gguf;
use super::gguf_reader::Value;

/// Token ids of the random model beyond the 256 bytes.
const TURN_START: u32 = 256;
const TURN_END: u32 = 257;

/// GGUF's mark of a control token such as `<|im_end|>`.
const CONTROL: Value = Value::Unsigned(3);

/// A tokenizer.
pub struct Tokenizer {
    kind: Kind,
    stop_tokens: Vec<u32>,
}

enum Kind {
    Bytes,
    Bpe { encoder: Box<tokenizers::Tokenizer>, token_bytes: Vec<Vec<u8>> },
}

impl Tokenizer {
    /// The random model's: a token is a byte, and no answer ends before it is long enough to compare.
    #[must_use]
    pub fn bytes() -> Self {
        Self { kind: Kind::Bytes, stop_tokens: Vec::new() }
    }

    /// The real model's: GPT-2's byte-level BPE, with digits split one by one (pre-tokenizer `smollm`).
    ///
    /// # Errors
    /// The file's tokenizer is of another kind or incomplete.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        Self::rebuild(gguf).with_context(|| format!("{}: the tokenizer", gguf.path().display()))
    }

    fn rebuild(gguf: &Gguf) -> Result<Self> {
        let (kind, split) = (text(gguf, "tokenizer.ggml.model")?, text(gguf, "tokenizer.ggml.pre")?);
        ensure!(
            (kind, split) == ("gpt2", "smollm"),
            "is {kind:?} with pre-tokenizer {split:?}; expected \"gpt2\" with \"smollm\""
        );
        let vocabulary = texts(gguf, "tokenizer.ggml.tokens")?;
        let merges = texts(gguf, "tokenizer.ggml.merges")?.into_iter().map(|merge| {
            merge
                .split_once(' ')
                .map(|(left, right)| (left.to_owned(), right.to_owned()))
                .context("odd merge")
        });
        let ids: Vocab = vocabulary.iter().map(|token| (*token).to_owned()).zip(0..).collect();
        let bpe = BPE::builder().vocab_and_merges(ids, merges.collect::<Result<_>>()?);
        let mut encoder = tokenizers::Tokenizer::new(bpe.build().map_err(|error| anyhow!(error))?);
        encoder.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
        ]))));
        let Some(Value::Array(types)) = gguf.metadata("tokenizer.ggml.token_type") else {
            bail!("token_type is missing");
        };
        let control: Vec<&str> = vocabulary
            .iter()
            .zip(types)
            .filter(|(_, kind)| **kind == CONTROL)
            .map(|(token, _)| *token)
            .collect();
        let added: Vec<AddedToken> = control.iter().map(|token| AddedToken::from(*token, true)).collect();
        encoder.add_special_tokens(&added);
        let stop_tokens =
            ["<|im_end|>", "<|endoftext|>"].iter().filter_map(|token| encoder.token_to_id(token)).collect();
        let token_bytes = vocabulary.iter().map(|token| token_bytes(token, &control)).collect();
        Ok(Self { kind: Kind::Bpe { encoder: Box::new(encoder), token_bytes }, stop_tokens })
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// The BPE library refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Kind::Bpe { encoder, .. } => {
                let encoding = encoder.encode_fast(text, false).map_err(|error| anyhow!(error))?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The ids of a chat with one question, up to where the answer starts.
    ///
    /// # Errors
    /// As for [`encode`](Self::encode).
    pub fn encode_chat(&self, question: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Bytes => {
                let mut ids = vec![TURN_START];
                ids.extend(self.encode(question)?);
                ids.push(TURN_END);
                Ok(ids)
            }
            Kind::Bpe { .. } => self.encode(&format!(
                "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
                 <|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            )),
        }
    }

    /// The bytes that a token stands for; nothing for control tokens and unknown ids.
    #[must_use]
    pub fn bytes_of(&self, token: u32) -> Vec<u8> {
        match &self.kind {
            Kind::Bytes => u8::try_from(token).map(|byte| vec![byte]).unwrap_or_default(),
            Kind::Bpe { token_bytes, .. } => usize::try_from(token)
                .ok()
                .and_then(|token| token_bytes.get(token))
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// Tokens after which an answer is complete.
    #[must_use]
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }
}

fn token_bytes(token: &str, control: &[&str]) -> Vec<u8> {
    if control.contains(&token) { Vec::new() } else { token.chars().filter_map(byte_of).collect() }
}

fn text<'a>(gguf: &'a Gguf, key: &str) -> Result<&'a str> {
    match gguf.metadata(key) {
        Some(Value::Text(text)) => Ok(text),
        other => bail!("{key} should be a text, found {other:?}"),
    }
}

fn texts<'a>(gguf: &'a Gguf, key: &str) -> Result<Vec<&'a str>> {
    let Some(Value::Array(values)) = gguf.metadata(key) else { bail!("{key} should be a list of texts") };
    let text = |value: &'a Value| match value {
        Value::Text(text) => Ok(text.as_str()),
        other => bail!("{key} holds {other:?} among its texts"),
    };
    values.iter().map(text).collect()
}
