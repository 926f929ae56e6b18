//! In the place of `nixl.rs` where NIXL is not compiled in: it says so.

use std::sync::Arc;

use super::Engine;
use super::choice::IoChoice;
use crate::posix::options::PosixOptions;
use crate::posix::tree::Tree;
use crate::{Error, ErrorKind, Result};

pub(super) fn choose(tree: &Tree, _: &PosixOptions) -> Result<(Arc<dyn Engine>, IoChoice)> {
    let message = "NIXL was asked for, and kv-storage was built without the feature `nixl`: enable it, or ask for threads";
    Err(Error::new(ErrorKind::Unsupported, tree, message))
}
