//! Tries at open what the store lives on: create, write, link without replacing, read back, remove. Blocks.

use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::fs::linkat;
use rustix::io::{Errno, retry_on_intr};

use super::io::{read_all, write_all};
use super::temporary::TEMPORARY_PREFIX;
use super::tree::{Tree, kind_of};
use crate::{Error, ErrorKind, Result};

const BODY: &[u8] = b"kvbridge probe: safe to delete";

/// Proves that the root can be written, that links do not replace, and that what is read is what was written. A full file system
/// passes: what it holds can still be read, and whoever writes is told.
pub(super) fn probe(tree: &Arc<Tree>) -> Result<()> {
    match attempt(tree) {
        Err(error) if error.kind() == ErrorKind::NoSpace => Ok(()),
        result => result,
    }
}

fn attempt(tree: &Arc<Tree>) -> Result<()> {
    let root = tree.directory("")?.ok_or_else(|| {
        let message = "the root directory went away while it was opened";
        Error::new(ErrorKind::Unavailable, tree, message)
    })?;
    let random = tree.environment.entropy.next_u64();
    let name = format!("{TEMPORARY_PREFIX}probe.{}.{random:016x}", std::process::id());
    let second = format!("{name}.link");
    let fail = |step: &str, errno: Errno| {
        let message = format!(
            "expected a directory that can be written, but {step} a file in it failed: {errno}; check owner, modes, mount options and free space"
        );
        Error::new(kind_of(errno), tree, message).with_source(errno)
    };
    let file = tree.create_file(&root, &name).map_err(|errno| fail("creating", errno))?;
    let link = || retry_on_intr(|| linkat(&root, &name, &root, &second, AtFlags::empty()));
    let tried = write_all(&file, BODY, 0)
        .map_err(|errno| fail("writing", errno))
        .and_then(|()| tree.sync_file(&file).map_err(|errno| fail("flushing", errno)))
        .and_then(|()| link().map_err(|errno| fail("hard-linking", errno)))
        .and_then(|()| match link() {
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(fail("hard-linking", errno)),
            Ok(()) => {
                let message = "this file system replaces a file by linking another over it: objects would not be create-only";
                Err(Error::new(ErrorKind::Unsupported, tree, message))
            }
        })
        .and_then(|()| {
            let mut back = vec![0; BODY.len()];
            match read_all(&file, &mut back, 0) {
                Ok(true) if back == BODY => Ok(()),
                Ok(_) => {
                    let message = "a file read back differs from what was written to it: do not use this disk";
                    Err(Error::new(ErrorKind::Backend, tree, message))
                }
                Err(errno) => Err(fail("reading", errno)),
            }
        });
    let removed = tree.remove(&root, &name, &name);
    let second_removed = tree.remove(&root, &second, &second);
    tried?;
    removed?;
    second_removed?;
    Ok(())
}
