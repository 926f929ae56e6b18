//! The whole command as a user runs it: real processes, a real store, and what they leave behind.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

mod devices;
mod hand_off;
mod long_waits;
mod prompts;
mod real_model;
mod refusals;
mod scene;
mod signals;
mod small_disk;
mod store_files;
mod vast;
