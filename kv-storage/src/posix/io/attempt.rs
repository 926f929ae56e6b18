//! An engine proves itself on a file of its own, before any object depends on it.

use std::io;
use std::sync::Arc;

use kv_memory::HostBuf;
use rustix::io::Errno;

use super::{Direction, Engine, Transfer, move_one};
use crate::posix::temporary::TEMPORARY_PREFIX;
use crate::posix::tree::Tree;

/// Two pages, which may go past the page cache, and a tail that cannot.
const PROBE: usize = 2 * 4096 + 100;

/// Writes a file of pages and a tail, and reads it back.
pub(super) fn attempt(tree: &Tree, engine: &dyn Engine) -> Result<(), String> {
    let root = tree.directory("").map_err(|error| error.to_string())?.ok_or("the root is gone")?;
    let random = tree.environment.entropy.next_u64();
    let name = format!("{TEMPORARY_PREFIX}io.{}.{random:016x}", std::process::id());
    let says = |errno: Errno| errno.to_string();
    let file = Arc::new(tree.create_file(&root, &name).map_err(says)?);
    let mut pattern = vec![0; PROBE];
    for (byte, value) in pattern.iter_mut().zip((0..=250).cycle()) {
        *byte = value;
    }
    let moved = |direction, buffer| -> Result<HostBuf, String> {
        let file = Arc::new(engine.open(Arc::clone(&file), direction).map_err(says)?);
        let (buffer, moved) = move_one(engine, Transfer { file, direction, offset: 0, buffer });
        if moved.map_err(says)? {
            Ok(buffer)
        } else {
            Err("the file is shorter than what was written".into())
        }
    };
    let tried = HostBuf::copy_of(&pattern)
        .map_err(|error| io::Error::other(error).to_string())
        .and_then(|buffer| moved(Direction::Write, buffer))
        .and_then(|mut buffer| {
            buffer.fill(0);
            moved(Direction::Read, buffer)
        })
        .and_then(|buffer| {
            if *buffer == *pattern { Ok(()) } else { Err("what was read is not what was written".into()) }
        });
    // What cannot be removed a sweep finds.
    let _ = tree.remove(&root, &name, &name);
    tried
}
