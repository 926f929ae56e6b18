//! Greedy decoding: the same loop for one process and for a group of ranks.

use std::io::Write;

use anyhow::{Context, Result, ensure};

use crate::cluster::stop::Stop;
use crate::engine::collective::Collective;
use crate::engine::math::argmax;
use crate::engine::sequence::Sequence;
use crate::model::text_stream::TextStream;
use crate::model::tokenizer::Tokenizer;

/// The leader's extras: turns tokens into text while they come.
pub struct Speaker<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Where the text goes.
    pub output: &'a mut dyn Write,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Token ids, the stop token included.
    pub tokens: Vec<u32>,
    /// BLAKE3 over the little-endian f32 bits of every step's logits, in hex. Empty on ranks other than the leader.
    pub logits_digest: String,
    /// The text; empty on ranks other than the leader.
    pub text: String,
}

/// Continues `sequence` from the logits after its prompt. Only the leader has logits and a speaker.
///
/// # Errors
/// Another rank is gone, the cache is full, the output is closed, or `stop` is set.
pub fn generate(
    sequence: &mut Sequence,
    peers: &mut dyn Collective,
    mut logits: Option<Vec<f32>>,
    max_tokens: usize,
    mut speaker: Option<Speaker<'_>>,
    stop: &Stop,
) -> Result<Answer> {
    let mut answer = Answer::default();
    let mut digest = blake3::Hasher::new();
    let mut stream = TextStream::default();
    while answer.tokens.len() < max_tokens {
        ensure!(!stop.is_set(), "stopped after {} answer tokens", answer.tokens.len());
        for logit in logits.iter().flatten() {
            digest.update(&logit.to_le_bytes());
        }
        let choice = choose(peers, logits.as_deref(), speaker.as_ref())?;
        answer.tokens.push(choice.token);
        if choice.is_last {
            break;
        }
        if let Some(speaker) = &mut speaker {
            let text = stream.push(&speaker.tokenizer.bytes_of(choice.token));
            say(speaker.output, &text)?;
            answer.text.push_str(&text);
        }
        if answer.tokens.len() < max_tokens {
            logits = sequence.decode(choice.token, peers)?;
        }
    }
    if let Some(speaker) = &mut speaker {
        let rest = stream.finish();
        say(speaker.output, &format!("{rest}\n"))?;
        answer.text.push_str(&rest);
        answer.logits_digest = digest.finalize().to_hex().to_string();
    }
    Ok(answer)
}

struct Choice {
    token: u32,
    is_last: bool,
}

/// The leader takes the likeliest token and tells the others.
fn choose(
    peers: &mut dyn Collective,
    logits: Option<&[f32]>,
    speaker: Option<&Speaker<'_>>,
) -> Result<Choice> {
    let mut message = Vec::new();
    if let (Some(logits), Some(speaker)) = (logits, speaker) {
        ensure!(
            logits.iter().all(|logit| logit.is_finite()),
            "the logits are not finite: the model has read KV that nobody wrote"
        );
        let token = u32::try_from(argmax(logits))?;
        message.extend(token.to_le_bytes());
        message.push(u8::from(speaker.tokenizer.stop_tokens().contains(&token)));
    }
    let message = peers.broadcast(&message)?;
    let (token, last) = message.split_first_chunk().context("the leader chose no token")?;
    Ok(Choice { token: u32::from_le_bytes(*token), is_last: last == [1] })
}

fn say(output: &mut dyn Write, text: &str) -> Result<()> {
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("writing the answer")
}
