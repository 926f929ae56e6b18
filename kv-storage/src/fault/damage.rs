//! Reads that answer something else than what is stored.

use kv_format::ObjectName;
use kv_memory::HostBuf;

use super::script::Injection;
use crate::parts::out_of_range;
use crate::{KvStore, ObjectMeta, ReadOutcome, ReadPart, Result};

/// The metadata of an object as the injection shows it.
pub(super) fn shown(mut meta: ObjectMeta, injection: Option<&Injection>) -> ObjectMeta {
    match injection {
        Some(Injection::Truncate(len)) => meta.len = meta.len.min(*len),
        Some(Injection::Extend(bytes)) => meta.len = meta.len.saturating_add(*bytes),
        _ => {}
    }
    meta
}

/// Reads from `inner` and shows the object as the injection has it.
pub(super) async fn read(
    inner: &dyn KvStore,
    name: &ObjectName,
    parts: Vec<ReadPart>,
    injection: Option<&Injection>,
) -> (Vec<HostBuf>, Result<Option<ObjectMeta>>) {
    match injection {
        Some(Injection::Vanish) => (buffers(parts), Ok(None)),
        Some(Injection::Truncate(_) | Injection::Extend(_)) => resized(inner, name, parts, injection).await,
        _ => {
            let offsets: Vec<u64> = parts.iter().map(|part| part.offset).collect();
            let ReadOutcome { mut buffers, result } = inner.read(name, parts).await;
            if matches!(result, Ok(Some(_))) {
                for (buffer, offset) in buffers.iter_mut().zip(offsets) {
                    damage(buffer, offset, injection);
                }
            }
            (buffers, result)
        }
    }
}

/// Flips or zeroes what of the damage lies in a part.
fn damage(bytes: &mut [u8], offset: u64, injection: Option<&Injection>) {
    let index = |at: u64| at.checked_sub(offset).and_then(|index| usize::try_from(index).ok());
    match injection {
        Some(Injection::Flip { at, bit }) => {
            if let Some(byte) = index(*at).and_then(|index| bytes.get_mut(index)) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Some(Injection::Zero(range)) => {
            for (at, byte) in (offset..).zip(bytes) {
                if range.contains(&at) {
                    *byte = 0;
                }
            }
        }
        _ => {}
    }
}

/// Reads an object that seems to have another length than it has.
async fn resized(
    inner: &dyn KvStore,
    name: &ObjectName,
    mut parts: Vec<ReadPart>,
    injection: Option<&Injection>,
) -> (Vec<HostBuf>, Result<Option<ObjectMeta>>) {
    let meta = match inner.head(name).await {
        Ok(Some(meta)) => meta,
        other => return (buffers(parts), other),
    };
    let shown_len = shown(meta.clone(), injection).len;
    let asked: Vec<(u64, usize)> = parts.iter().map(|part| (part.offset, part.buffer.len())).collect();
    for &(offset, bytes) in &asked {
        let end = offset.checked_add(bytes as u64);
        if end.is_none_or(|end| end > shown_len) {
            let error = out_of_range(&inner, name, (offset, bytes), shown_len);
            return (buffers(parts), Err(error));
        }
    }
    // Read what exists, and give the buffers their lengths back.
    for part in &mut parts {
        part.offset = part.offset.min(meta.len);
        let exists = usize::try_from(meta.len - part.offset).unwrap_or(usize::MAX);
        let clipped = part.buffer.len().min(exists);
        let _ = part.buffer.set_len(clipped); // shorter, so it cannot fail
    }
    let ReadOutcome { mut buffers, result } = inner.read(name, parts).await;
    for (buffer, (_, bytes)) in buffers.iter_mut().zip(asked) {
        let exists = buffer.len();
        let _ = buffer.set_len(bytes); // its length before, so it cannot fail
        if let Some(beyond) = buffer.get_mut(exists..) {
            beyond.fill(0);
        }
    }
    (buffers, result.map(|meta| meta.map(|meta| shown(meta, injection))))
}

fn buffers(parts: Vec<ReadPart>) -> Vec<HostBuf> {
    parts.into_iter().map(|part| part.buffer).collect()
}
