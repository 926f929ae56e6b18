//! Buffers belong to the operation, and come back.

use super::subject::{PART, Subject, poll_once};
use super::{Failure, ensure};
use crate::{ErrorKind, ReadPart};

/// The buffers that went in come out, in order and with their lengths, whether the call succeeds or not.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-buffers
pub async fn buffers_come_back(subject: &Subject) -> Result<(), Failure> {
    let (name, missing) = (subject.name(), subject.name());
    let upload = subject.writer().begin(&name, PART as u64).await?;
    let bytes = subject.bytes(PART);
    let part = subject.buffer(&bytes).await?;
    let address = part.as_ptr().addr();
    let (part, result) = upload.write(0, part).await;
    result?;
    ensure!(part.as_ptr().addr() == address, "a write gave another buffer back");
    ensure!(*part == *bytes, "a write changed the buffer that it wrote from");
    drop(part);
    upload.commit().await?;
    for name in [name, missing] {
        let mut parts = Vec::new();
        for len in [100, 0, PART, 1] {
            parts.push(ReadPart { offset: 0, buffer: subject.blank(len).await? });
        }
        let identities = |part: &ReadPart| (part.buffer.as_ptr().addr(), part.buffer.len());
        let went_in: Vec<_> = parts.iter().map(identities).collect();
        let buffers = subject.reader().read(&name, parts).await.buffers;
        let came_back: Vec<_> = buffers.iter().map(|b| (b.as_ptr().addr(), b.len())).collect();
        ensure!(
            came_back == went_in,
            "a read gave other buffers back: {went_in:x?} went in, {came_back:x?} came back"
        );
    }
    Ok(())
}

/// A dropped call keeps its buffers until the store has let go of them, and then gives them back. An upload of which a write was
/// dropped cannot be committed.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-dropped
pub async fn dropped_calls_keep_their_buffers(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(PART));
    subject.publish(&name, &bytes).await?;
    for _ in 0..16 {
        let doomed = subject.name();
        let upload = subject.writer().begin(&doomed, PART as u64).await?;
        let answered = poll_once(upload.write(0, subject.buffer(&bytes).await?)).await;
        let dropped = answered.is_none();
        drop(answered);
        if dropped {
            match upload.commit().await {
                Err(error) if error.kind() == ErrorKind::Invalid => {}
                other => {
                    let message = format!("expected Invalid after a dropped write, found {other:?}");
                    return Err(Failure::new(message));
                }
            }
            subject.expect_nothing(&doomed, "after a dropped write").await?;
        }
    }
    for _ in 0..16 {
        let parts = vec![ReadPart { offset: 0, buffer: subject.blank(PART).await? }];
        drop(poll_once(subject.reader().read(&name, parts)).await);
    }
    // Every buffer is taken again. A store that still reads into one of them would overwrite the new contents.
    let mut all = subject.pool().acquire_many(subject.pool().parts()).await;
    for buffer in &mut all {
        buffer.fill(0x3c);
    }
    let head = subject.reader().head(&name).await?;
    ensure!(head.is_some(), "a published object is gone after dropped reads");
    let touched = all.iter().any(|buffer| buffer.iter().any(|&byte| byte != 0x3c));
    ensure!(!touched, "a dropped read wrote into a buffer that it had given back");
    drop(all);
    // Dropped commits publish the whole object or nothing.
    for _ in 0..16 {
        let name = subject.name();
        let upload = subject.upload(&name, &bytes).await?;
        drop(poll_once(upload.commit()).await);
        let seen = subject.range(&name, 0, PART).await?;
        ensure!(seen.is_none_or(|(read, _)| read == bytes), "a dropped commit published a part of an object");
    }
    Ok(())
}
