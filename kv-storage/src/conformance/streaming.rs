//! Reads into a sink and writes from a source.

use std::sync::{Arc, Mutex, PoisonError};

use kv_memory::HostBuf;

use super::subject::PART;
use super::{Failure, Subject, ensure};
use crate::{ByteRange, ErrorKind, Next, ObjectMeta, Publication, ReadSink, WriteSource};

/// A source with some pieces; it gives up behind the last.
struct Pieces(Vec<Vec<u8>>);

impl WriteSource for Pieces {
    fn fill(&self, index: usize, buffer: &mut HostBuf) -> bool {
        let Some(piece) = self.0.get(index) else { return false };
        buffer.copy_from_slice(piece);
        true
    }
}

/// A sink that copies what it gets, and gives back, keeps or refuses buffers as the check wants it.
struct Recorder {
    keeps: bool,
    stop_after: usize,
    seen: Mutex<Vec<(usize, Vec<u8>, ObjectMeta)>>,
    kept: Mutex<Vec<HostBuf>>,
}

impl Recorder {
    fn new(keeps: bool, stop_after: usize) -> Arc<Self> {
        Arc::new(Self { keeps, stop_after, seen: Mutex::default(), kept: Mutex::default() })
    }

    fn seen(&self) -> Vec<(usize, Vec<u8>, ObjectMeta)> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ReadSink for Recorder {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push((index, buffer.to_vec(), meta.clone()));
        if seen.len() >= self.stop_after {
            return Next::Stop;
        }
        if self.keeps {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
            return Next::Kept;
        }
        Next::Reuse(buffer)
    }
}

/// Every range reaches the sink once and whole, the first one first, with few buffers and with many; a sink that stops gets no more.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-stream
pub async fn streamed_reads_are_exact(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(5 * PART + 77));
    subject.publish(&name, &bytes).await?;
    let version = subject.expect(&name, &bytes).await?.version;
    for round in 0..24 {
        let (keeps, count) = (round % 2 == 0, subject.below(7));
        let stop_after = if round % 3 == 2 { 1 + subject.below(count + 1) } else { usize::MAX };
        let mut ranges = Vec::new();
        for _ in 0..count {
            let offset = subject.below(bytes.len() + 1);
            let len = subject.below(PART.min(bytes.len() - offset) + 1);
            ranges.push(ByteRange { offset: offset as u64, len });
        }
        let mut buffers = Vec::new();
        for _ in 0..if keeps { count } else { 1 + subject.below(3) } {
            buffers.push(subject.blank(PART).await?);
        }
        let sink = Recorder::new(keeps, stop_after);
        let shared = Arc::<Recorder>::clone(&sink);
        let meta = subject.reader().read_into(&name, ranges.clone(), buffers, shared).await?;
        ensure!(
            meta.as_ref().map(|meta| &meta.version) == Some(&version),
            "a streamed read of version {version:?} answers {meta:?}"
        );
        let mut seen = sink.seen();
        ensure!(seen.first().is_none_or(|(index, ..)| *index == 0), "the first range did not come first");
        ensure!(
            seen.len() == count.min(stop_after),
            "{} of {count} ranges reached a sink that stops after {stop_after}",
            seen.len()
        );
        seen.sort_by_key(|(index, ..)| *index);
        seen.dedup_by_key(|(index, ..)| *index);
        ensure!(seen.len() == count.min(stop_after), "a range reached the sink twice");
        for (index, found, meta) in seen {
            let ByteRange { offset, len } = ranges[index];
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            ensure!(meta.version == version, "range {index} came with the version {:?}", meta.version);
            ensure!(
                bytes.get(start..start + len) == Some(&*found),
                "range {index}, {len} bytes at {offset}, differs from what was written"
            );
        }
    }
    Ok(())
}

/// A missing object and a range behind the end do not reach the sink as success.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-stream
pub async fn streamed_reads_miss_and_refuse(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(1000));
    let range = |offset, len| vec![ByteRange { offset, len }];
    let sink = Recorder::new(false, usize::MAX);
    let read = |ranges, buffer| {
        subject.reader().read_into(&name, ranges, vec![buffer], Arc::<Recorder>::clone(&sink))
    };
    let missing = read(range(0, 10), subject.blank(10).await?).await?;
    ensure!(missing.is_none() && sink.seen().is_empty(), "a streamed read of nothing answers {missing:?}");
    subject.publish(&name, &bytes).await?;
    for (offset, len) in [(0, 1001), (999, 2), (1001, 0), (u64::MAX, 1)] {
        let outcome = read(range(offset, len), subject.blank(len).await?).await;
        let kind = outcome.as_ref().err().map(|error| error.kind());
        ensure!(
            kind == Some(ErrorKind::OutOfRange) && sink.seen().is_empty(),
            "expected OutOfRange for {len} bytes at {offset} of 1000, found {outcome:?}"
        );
    }
    Ok(())
}

/// What a source fills in is what is written; a source that gives up writes nothing, and the upload cannot be committed.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-source
pub async fn writes_from_a_source(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(2 * PART));
    let upload = subject.writer().begin(&name, bytes.len() as u64).await?;
    let ranges = [PART, 0].map(|offset| ByteRange { offset: offset as u64, len: PART });
    let pieces = [bytes[PART..].to_vec(), bytes[..PART].to_vec()];
    let buffer = subject.blank(PART).await?;
    let (buffer, result) = upload.write_from(ranges.to_vec(), buffer, Arc::new(Pieces(pieces.into()))).await;
    result?;
    ensure!(buffer.len() == PART, "a buffer of {} bytes came back", buffer.len());
    ensure!(upload.commit().await? == Publication::Published, "a complete upload was not published");
    subject.expect(&name, &bytes).await?;

    let given_up = subject.name();
    let upload = subject.writer().begin(&given_up, PART as u64).await?;
    let ranges =
        vec![ByteRange { offset: 0, len: PART / 2 }, ByteRange { offset: PART as u64 / 2, len: PART / 2 }];
    let one_only = Arc::new(Pieces(vec![bytes[..PART / 2].to_vec()]));
    let (_, result) = upload.write_from(ranges, subject.blank(PART).await?, one_only).await;
    let kind = result.err().map(|error| error.kind());
    ensure!(kind == Some(ErrorKind::Invalid), "a source that gave up: expected Invalid, found {kind:?}");
    let committed = upload.commit().await;
    ensure!(committed.is_err(), "an upload whose source gave up was committed: {committed:?}");
    subject.expect_nothing(&given_up, "after a source gave up").await
}
