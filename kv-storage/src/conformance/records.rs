//! Records are created once, replaced by version, and always whole.

use super::subject::{Running, Subject, join_all};
use super::{Failure, ensure};
use crate::{ErrorKind, MAX_RECORD_BYTES, Record};

/// One record from its creation to its removal.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-record-replace
pub async fn record_lifecycle(subject: &Subject) -> Result<(), Failure> {
    let (writer, reader, name) = (subject.writer(), subject.reader(), subject.record());
    let gone = || Failure::new("a record is gone or refused its own version");
    let first = writer.create_record(&name, b"first").await?.ok_or_else(gone)?;
    let read = reader.read_record(&name).await?.ok_or_else(gone)?;
    ensure!(read.body == b"first" && read.version == first, "expected `first`, found {read:?}");
    let second = writer.replace_record(&name, &first, b"second").await?.ok_or_else(gone)?;
    ensure!(first != second, "two bodies have one version {first:?}");
    let read = reader.read_record(&name).await?.ok_or_else(gone)?;
    ensure!(read.body == b"second" && read.version == second, "expected `second`, found {read:?}");
    let stale = writer.replace_record(&name, &first, b"third").await?;
    ensure!(stale.is_none(), "a record was replaced by a version that it no longer has");
    let read = reader.read_record(&name).await?.ok_or_else(gone)?;
    ensure!(read.body == b"second", "a refused replacement changed the record to {read:?}");
    ensure!(writer.delete_record(&name).await?, "delete of a record answered false");
    let read = reader.read_record(&name).await?;
    ensure!(read.is_none(), "a deleted record reads {read:?}");
    let replaced = writer.replace_record(&name, &second, b"fourth").await?;
    ensure!(replaced.is_none(), "a deleted record was replaced");
    writer.create_record(&name, b"again").await?.ok_or_else(gone)?;
    Ok(())
}

/// Bodies from nothing to the longest, and not one byte longer.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-record-size
pub async fn record_sizes(subject: &Subject) -> Result<(), Failure> {
    let (writer, reader) = (subject.writer(), subject.reader());
    for len in [0, 1, 4096, MAX_RECORD_BYTES] {
        let (name, body) = (subject.record(), subject.bytes(len));
        let version = writer.create_record(&name, &body).await?;
        let read = reader.read_record(&name).await?;
        let expected = version.map(|version| Record { body, version });
        ensure!(expected.is_some() && read == expected, "a record of {len} bytes differs when read");
    }
    let (name, long) = (subject.record(), subject.bytes(MAX_RECORD_BYTES + 1));
    let refused = |answer: crate::Result<_>, what: &str| match answer {
        Err(error) if error.kind() == ErrorKind::Invalid => Ok(()),
        other => {
            Err(Failure::new(format!("{what} of a body that is too long: expected Invalid, found {other:?}")))
        }
    };
    refused(writer.create_record(&name, &long).await, "create")?;
    ensure!(reader.read_record(&name).await?.is_none(), "a refused record is there");
    if let Some(version) = writer.create_record(&name, b"short").await? {
        refused(writer.replace_record(&name, &version, &long).await, "replace")?;
    }
    let read = reader.read_record(&name).await?.map(|record| record.body);
    ensure!(read.as_deref() == Some(b"short"), "a refused replacement left {read:?}");
    Ok(())
}

/// Of racing creators one succeeds.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-record-create
pub async fn records_are_create_only(subject: &Subject) -> Result<(), Failure> {
    for _ in 0..8 {
        let name = subject.record();
        let bodies: Vec<Vec<u8>> = (0..8).map(|writer| subject.bytes(1000 + writer)).collect();
        let creations = bodies
            .iter()
            .map(|body| -> Running<'_, _> { Box::pin(subject.writer().create_record(&name, body)) });
        let mut winners = Vec::new();
        for (body, answer) in bodies.iter().zip(join_all(creations).await) {
            if answer?.is_some() {
                winners.push(body);
            }
        }
        ensure!(winners.len() == 1, "{} of 8 racing creators succeeded", winners.len());
        let read = subject.reader().read_record(&name).await?;
        ensure!(
            read.is_some_and(|record| Some(&&record.body) == winners.first()),
            "the record is not the winner's"
        );
    }
    Ok(())
}

/// Readers see the old body or the new one, whole, and never nothing, while the owner replaces it.
///
/// # Errors
/// What the store does otherwise.
//= SEMANTICS.md#any-record-replace
pub async fn records_are_replaced_whole(subject: &Subject) -> Result<(), Failure> {
    let name = subject.record();
    let body = |number: usize| vec![u8::try_from(number % 251).unwrap_or_default(); 10 + number * 97];
    let mut version = subject.writer().create_record(&name, &body(0)).await?;
    for number in 1..40 {
        let Some(expected) = version.take() else {
            return Err(Failure::new("a record refused its own version"));
        };
        let new = body(number);
        let replace = async {
            let answer = subject.writer().replace_record(&name, &expected, &new).await?;
            Ok::<_, Failure>((answer, None))
        };
        let look = || async { Ok((None, Some(subject.reader().read_record(&name).await?))) };
        let mut running: Vec<Running<'_, Result<_, Failure>>> = vec![Box::pin(replace)];
        for _ in 0..4 {
            running.push(Box::pin(look()));
        }
        for answer in join_all(running).await {
            let (replaced, read) = answer?;
            version = version.or(replaced);
            if let Some(read) = read {
                let read = read.map(|record| record.body);
                let whole = read.as_ref().is_some_and(|read| *read == new || *read == body(number - 1));
                ensure!(
                    whole,
                    "during replacement {number} a reader saw neither body, but {:?} bytes",
                    read.map(|read| read.len())
                );
            }
        }
    }
    Ok(())
}
