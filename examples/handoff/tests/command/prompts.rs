//! What is asked.

/// About 700 tokens for the real model, 3000 for the seeded one, whose tokens are bytes.
pub(crate) const LONG: &str = include_str!("../../../../xtask/src/demo/long_prompt.txt");

/// For the seeded model: two full chunks and a tail.
pub(crate) fn two_chunks_and_a_tail() -> &'static str {
    &LONG[..660]
}

/// For the seeded model: seconds of prefill, and as long as its context allows.
pub(crate) fn endless() -> String {
    LONG.chars().cycle().take(7800).collect()
}
