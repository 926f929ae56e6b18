//! Objects appear whole, once, and only by a commit.

use super::subject::{PART, Running, Subject, join_all, write};
use super::{Failure, ensure};
use crate::{ErrorKind, Publication, WriteOrder};

/// Writers that race for one name.
const WRITERS: usize = 8;

/// Nothing is visible before the commit, and all of it after.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-invisible
//= SEMANTICS.md#any-whole
pub async fn invisible_before_the_commit(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(3 * PART + 17));
    let upload = subject.writer().begin(&name, bytes.len() as u64).await?;
    subject.expect_nothing(&name, "after the begin").await?;
    drop(upload);
    let upload = subject.upload(&name, &bytes).await?;
    subject.expect_nothing(&name, "after the last write, before the commit").await?;
    let answer = upload.commit().await?;
    ensure!(answer == Publication::Published, "the commit answered {answer:?}");
    subject.expect(&name, &bytes).await?;
    Ok(())
}

/// Objects of every size, written in and out of order.
///
/// # Errors
/// What the store does otherwise.
pub async fn sizes_and_write_orders(subject: &Subject) -> Result<(), Failure> {
    for len in [0, 1, 4095, 4096, 4097, PART, PART + 1, 5 << 20] {
        let (name, bytes) = (subject.name(), subject.bytes(len));
        subject.publish(&name, &bytes).await?;
        subject.expect(&name, &bytes).await?;
    }
    if subject.writer().capabilities().write_order != WriteOrder::Any {
        return Ok(());
    }
    let (name, bytes) = (subject.name(), subject.bytes(40 * 4096 + 5));
    let mut parts: Vec<(u64, &[u8])> = (0..).step_by(4096).zip(bytes.chunks(4096)).collect();
    for i in (1..parts.len()).rev() {
        parts.swap(i, subject.below(i + 1));
    }
    let upload = subject.writer().begin(&name, bytes.len() as u64).await?;
    let mut writes: Vec<Running<'_, _>> = Vec::new();
    for (offset, part) in parts {
        let buffer = subject.buffer(part).await?;
        writes.push(Box::pin(upload.write(offset, buffer)));
    }
    for (_, result) in join_all(writes).await {
        result?;
    }
    upload.commit().await?;
    subject.expect(&name, &bytes).await?;
    Ok(())
}

/// Of racing commits of one name one publishes, and the object is that one's.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-create-only
pub async fn create_only_under_a_race(subject: &Subject) -> Result<(), Failure> {
    let atomic = subject.writer().capabilities().atomic_create;
    for round in 0..4 {
        let name = subject.name();
        let mut racers = tokio::task::JoinSet::new();
        let mut contents = Vec::new();
        for writer in 0..WRITERS {
            let bytes = subject.bytes(PART + writer);
            let upload = subject.upload(&name, &bytes).await?;
            contents.push(bytes);
            racers.spawn(async move { (writer, upload.commit().await) });
        }
        let mut winners = Vec::new();
        while let Some(joined) = racers.join_next().await {
            let (writer, answer) = joined.map_err(|error| Failure::new(format!("a commit: {error}")))?;
            if answer? == Publication::Published {
                winners.push(writer);
            }
        }
        ensure!(!winners.is_empty(), "round {round}: nobody published a free name");
        ensure!(
            !atomic || winners.len() == 1,
            "round {round}: the writers {winners:?} of {WRITERS} all published one name"
        );
        let Some(meta) = subject.reader().head(&name).await? else {
            return Err(Failure::new("the published object is not there"));
        };
        let visible = usize::try_from(meta.len).unwrap_or_default().wrapping_sub(PART);
        ensure!(
            winners.contains(&visible),
            "the writers {winners:?} published, and the object of writer {visible} is visible"
        );
        let winner = contents.get(visible).cloned().unwrap_or_default();
        subject.expect(&name, &winner).await?;
        // A late writer changes nothing, even with an object of the same length.
        let late = subject.upload(&name, &subject.bytes(winner.len())).await?.commit().await?;
        if atomic {
            ensure!(late == Publication::AlreadyExists, "a taken name was answered {late:?}");
            let again = subject.expect(&name, &winner).await?;
            ensure!(again == meta, "a refused commit changed {meta:?} into {again:?}");
        }
    }
    Ok(())
}

/// Readers that look while an object is published see nothing or all of it.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-whole
pub async fn whole_under_concurrent_reads(subject: &Subject) -> Result<(), Failure> {
    for _ in 0..8 {
        let (name, bytes) = (subject.name(), subject.bytes(2 * PART));
        let writer = async {
            subject.publish(&name, &bytes).await?;
            Ok::<_, Failure>(None)
        };
        let look = || async {
            let seen = subject.range(&name, 0, bytes.len()).await?;
            Ok(Some(seen.map(|(read, _)| read)))
        };
        let mut running: Vec<Running<'_, Result<_, Failure>>> = vec![Box::pin(writer)];
        for _ in 0..16 {
            running.push(Box::pin(look()));
        }
        for answer in join_all(running).await {
            if let Some(Some(read)) = answer? {
                ensure!(read == bytes, "a reader saw a part of an object that was being published");
            }
        }
        subject.expect(&name, &bytes).await?;
    }
    Ok(())
}

/// An upload with missing bytes cannot be committed.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-incomplete
pub async fn incomplete_commits_are_refused(subject: &Subject) -> Result<(), Failure> {
    let len = 3 * 4096_u64;
    let written: [&[u64]; 4] = [&[], &[0], &[0, 1], &[0, 0, 1]];
    for pages in written {
        let name = subject.name();
        let upload = subject.writer().begin(&name, len).await?;
        for page in pages {
            let buffer = subject.buffer(&subject.bytes(4096)).await?;
            write(&*upload, page * 4096, buffer).await?;
        }
        match upload.commit().await {
            Err(error) if error.kind() == ErrorKind::Invalid => {}
            other => {
                let message =
                    format!("expected Invalid with only the pages {pages:?} of 3 written, found {other:?}");
                return Err(Failure::new(message));
            }
        }
        subject.expect_nothing(&name, "after a refused commit").await?;
    }
    Ok(())
}

/// A part behind the announced length is refused and comes back; what fits can still be published.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-incomplete
pub async fn writes_behind_the_end_are_refused(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(100));
    let upload = subject.writer().begin(&name, 100).await?;
    for (offset, len) in [(0, 101), (100, 1), (99, 2), (u64::MAX, 2), (1 << 40, 1)] {
        let buffer = subject.blank(len).await?;
        let address = buffer.as_ptr().addr();
        let (buffer, result) = upload.write(offset, buffer).await;
        let same = buffer.as_ptr().addr() == address && buffer.len() == len;
        ensure!(same, "a refused part came back as another buffer");
        match result {
            Err(error) if error.kind() == ErrorKind::Invalid => {}
            other => {
                let message = format!("expected Invalid for {len} bytes at {offset} of 100, found {other:?}");
                return Err(Failure::new(message));
            }
        }
    }
    write(&*upload, 0, subject.buffer(&bytes).await?).await?;
    upload.commit().await?;
    subject.expect(&name, &bytes).await?;
    Ok(())
}

/// An aborted or dropped upload leaves nothing, and its name is free.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-abort
pub async fn abort_and_drop_leave_nothing(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(PART));
    subject.upload(&name, &bytes).await?.abort().await?;
    subject.expect_nothing(&name, "after an abort").await?;
    drop(subject.upload(&name, &bytes).await?);
    subject.expect_nothing(&name, "after a complete upload was dropped").await?;
    drop(subject.writer().begin(&name, 10).await?);
    subject.expect_nothing(&name, "after an empty upload was dropped").await?;
    let other = subject.bytes(PART);
    subject.publish(&name, &other).await?;
    subject.expect(&name, &other).await?;
    Ok(())
}
