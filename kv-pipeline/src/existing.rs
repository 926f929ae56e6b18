//! What is stored under an object's name already.

use kv_format::{ErrorKind as FormatKind, ObjectHeader};
use kv_memory::HostBuf;
use kv_storage::{ErrorKind as StorageKind, ObjectMeta, ReadPart, Setback};

use crate::limits::Limits;
use crate::parts::PlannedObject;
use crate::pipeline::Core;
use crate::stats::count;
use crate::{Error, ErrorKind, Result};

/// What is stored under a name.
pub(crate) enum Existing {
    /// No object, or a corrupt one that was just taken out of the way.
    Nothing,
    /// An object of the same identity.
    Same(Box<ObjectHeader>),
}

/// Reads the header of what is stored under an object's name, into a staging part that comes back.
///
/// # Errors
/// `Conflict` if it has another identity.
pub(crate) async fn read_existing(
    core: &Core,
    limits: &Limits,
    object: &PlannedObject,
    mut buffer: HostBuf,
) -> Result<(HostBuf, Existing)> {
    buffer.set_len(object.header_len())?;
    let outcome = limits.run(core.store.read(&object.name, vec![ReadPart { offset: 0, buffer }])).await?;
    let buffer = outcome.buffers.into_iter().next();
    let buffer = buffer
        .ok_or_else(|| Error::new(ErrorKind::Storage, format!("{}: lost a read buffer", core.store)))?;
    let meta = match outcome.result {
        Ok(None) => return Ok((buffer, Existing::Nothing)),
        Ok(Some(meta)) => meta,
        // Shorter than its header: learn its version, so that it can be taken out of the way.
        Err(error) if error.kind() == StorageKind::OutOfRange => {
            match limits.run(core.store.head(&object.name)).await?? {
                Some(meta) if meta.len < object.layout.header_len => {
                    quarantine(core, limits, &meta).await?;
                    return Ok((buffer, Existing::Nothing));
                }
                _ => return Err(error.into()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    let conflict = |error: kv_format::Error| {
        count(&core.counters.objects_conflicting, 1);
        Error::new(ErrorKind::Conflict, format!("another object is stored as {}: {error}", object.name))
    };
    match ObjectHeader::decode(&buffer, meta.len) {
        Ok(header) => {
            header.expect(&object.identity, &object.layout).map_err(conflict)?;
            Ok((buffer, Existing::Same(Box::new(header))))
        }
        Err(error) if error.kind() == FormatKind::Incompatible => Err(conflict(error)),
        // What one way to the store garbles another may give whole.
        Err(_) if core.store.another_way(&object.name, Setback::Corrupt) => {
            count(&core.counters.verify_failures, 1);
            count(&core.counters.objects_read_again, 1);
            Box::pin(read_existing(core, limits, object, buffer)).await
        }
        Err(_) => {
            quarantine(core, limits, &meta).await?;
            Ok((buffer, Existing::Nothing))
        }
    }
}

/// Takes an object that failed verification out of the way, if it still is the one that was read, so that the next save heals it.
pub(crate) async fn quarantine(core: &Core, limits: &Limits, meta: &ObjectMeta) -> Result<()> {
    count(&core.counters.verify_failures, 1);
    if limits.run(core.store.quarantine(&meta.name, &meta.version)).await?? {
        count(&core.counters.objects_quarantined, 1);
    }
    Ok(())
}
