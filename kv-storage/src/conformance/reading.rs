//! Reads answer exactly the range that was asked for, or say why not.

use super::subject::{PART, Subject};
use super::{Failure, ensure};
use crate::{ErrorKind, ReadOutcome, ReadPart, Version};

/// Nothing is there: not an error.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-miss
pub async fn missing_is_none(subject: &Subject) -> Result<(), Failure> {
    let name = subject.name();
    subject.expect_nothing(&name, "of a name that was never used").await?;
    let deleted = subject.writer().delete(&name).await?;
    ensure!(!deleted, "delete of a missing object answered true");
    let version = Version("no such version".to_owned());
    let quarantined = subject.writer().quarantine(&name, &version).await?;
    ensure!(!quarantined, "quarantine of a missing object answered true");
    let record = subject.record();
    let read = subject.reader().read_record(&record).await?;
    ensure!(read.is_none(), "a record that was never created reads {read:?}");
    let replaced = subject.writer().replace_record(&record, &version, b"x").await?;
    ensure!(replaced.is_none(), "a missing record was replaced");
    let deleted = subject.writer().delete_record(&record).await?;
    ensure!(!deleted, "delete of a missing record answered true");
    Ok(())
}

/// Every byte of every range is the object's, and all parts are of one version.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-range
//= SEMANTICS.md#any-one-version
pub async fn ranges_are_exact(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(4 * PART + 333));
    subject.publish(&name, &bytes).await?;
    let version = subject.expect(&name, &bytes).await?.version;
    for _ in 0..40 {
        let mut ranges = Vec::new();
        for _ in 0..=subject.below(6) {
            let offset = subject.below(bytes.len() + 1);
            let len = subject.below(PART.min(bytes.len() - offset) + 1);
            ranges.push((offset, len));
        }
        let mut parts = Vec::new();
        for &(offset, len) in &ranges {
            parts.push(ReadPart { offset: offset as u64, buffer: subject.blank(len).await? });
        }
        let ReadOutcome { buffers, result } = subject.reader().read(&name, parts).await;
        let meta = result?.ok_or_else(|| Failure::new("a published object is missing"))?;
        ensure!(meta.version == version, "an object's version changed from {version:?} to {meta:?}");
        ensure!(buffers.len() == ranges.len(), "{} buffers of {}", buffers.len(), ranges.len());
        for (buffer, (offset, len)) in buffers.iter().zip(ranges) {
            let expected = bytes.get(offset..offset + len);
            ensure!(
                Some(&**buffer) == expected,
                "{len} bytes at offset {offset} differ from what was written"
            );
        }
    }
    // No parts at all is a question for the metadata.
    let ReadOutcome { buffers, result } = subject.reader().read(&name, Vec::new()).await;
    let found = result?.map(|meta| meta.version);
    ensure!(buffers.is_empty() && found == Some(version), "a read of no parts answers {found:?}");
    Ok(())
}

/// A range that ends behind the object is refused whole: never a short read that is called a success.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-range
pub async fn ranges_behind_the_end_are_refused(subject: &Subject) -> Result<(), Failure> {
    let (name, bytes) = (subject.name(), subject.bytes(1000));
    subject.publish(&name, &bytes).await?;
    for (offset, len) in
        [(0, 1001), (999, 2), (1000, 1), (1001, 0), (5000, 10), (u64::MAX, 1), (u64::MAX - 3, 8)]
    {
        let parts = vec![
            ReadPart { offset: 0, buffer: subject.blank(10).await? },
            ReadPart { offset, buffer: subject.blank(len).await? },
        ];
        let addresses: Vec<usize> = parts.iter().map(|part| part.buffer.as_ptr().addr()).collect();
        let ReadOutcome { buffers, result } = subject.reader().read(&name, parts).await;
        match result {
            Err(error) if error.kind() == ErrorKind::OutOfRange => {}
            other => {
                let message =
                    format!("expected OutOfRange for {len} bytes at {offset} of 1000, found {other:?}");
                return Err(Failure::new(message));
            }
        }
        let back: Vec<usize> = buffers.iter().map(|buffer| buffer.as_ptr().addr()).collect();
        ensure!(back == addresses, "other buffers came back than went in");
    }
    subject.expect(&name, &bytes).await?;
    Ok(())
}
