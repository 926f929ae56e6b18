//! In the place of `rings.rs` where io_uring is not compiled in: it says so.

use std::convert::Infallible;
use std::sync::Arc;

use super::Engine;
use super::choice::IoChoice;
use crate::posix::options::PosixOptions;
use crate::posix::tree::Tree;

pub(super) type Started = Result<Infallible, String>;

pub(super) fn start(_: &PosixOptions) -> Started {
    Err("kv-storage was built without the feature `io-uring`".into())
}

pub(super) fn worth_trying(_: &Tree) -> Result<(), String> {
    Ok(())
}

pub(super) fn proven(_: &Tree, _: &PosixOptions, never: Infallible) -> (Arc<dyn Engine>, IoChoice) {
    match never {}
}
