//! What a store in memory holds.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use kv_format::{ObjectName, RecordName};
use kv_memory::HostBuf;

use super::MemoryStore;
use crate::parts::{Stream, out_of_range};
use crate::{ByteRange, ObjectMeta, ReadPart, Record, Result, Version};

#[derive(Default)]
pub(super) struct Contents {
    pub(super) objects: BTreeMap<ObjectName, Arc<Stored>>,
    pub(super) records: BTreeMap<RecordName, Record>,
    versions: u64,
    /// Memory of deleted objects, for new ones: fresh pages cost more than copying.
    spare: Vec<Body>,
}

/// Most bytes of deleted objects that are kept for new ones.
const SPARE_BYTES: usize = 256 << 20;

/// Objects of at least this many bytes have memory of their own in huge pages, which are faster to copy to and from; a smaller one
/// would waste most of a huge page.
const HUGE_FROM: usize = 1 << 20;

/// An object's bytes.
pub(super) enum Body {
    Small(Vec<u8>),
    Large(HostBuf),
}

pub(super) struct Stored {
    pub(super) bytes: Body,
    pub(super) version: Version,
}

impl Body {
    /// `len` bytes of any contents; `None` if there is no memory for them.
    pub(super) fn allocate(len: usize) -> Option<Self> {
        if len >= HUGE_FROM {
            return HostBuf::allocate(len).ok().map(Self::Large);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        bytes.resize(len, 0);
        Some(Self::Small(bytes))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

impl DerefMut for Body {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

impl Contents {
    /// Memory for an object of `len` bytes, if a deleted one of its length left some.
    pub(super) fn take_spare(&mut self, len: usize) -> Option<Body> {
        let index = self.spare.iter().position(|spare| spare.len() == len)?;
        Some(self.spare.swap_remove(index))
    }

    /// Keeps the memory of a large object that nobody reads any more.
    pub(super) fn recycle(&mut self, stored: Option<Arc<Stored>>) {
        let Some(Stored { bytes, .. }) = stored.and_then(Arc::into_inner) else { return };
        let kept: usize = self.spare.iter().map(|spare| spare.len()).sum();
        if bytes.len() >= HUGE_FROM && kept.saturating_add(bytes.len()) <= SPARE_BYTES {
            self.spare.push(bytes);
        }
    }

    pub(super) fn next_version(&mut self) -> Version {
        self.versions += 1;
        Version(format!("m{}", self.versions))
    }
}

impl Stored {
    pub(super) fn meta(&self, name: &ObjectName) -> ObjectMeta {
        ObjectMeta { name: *name, len: self.bytes.len() as u64, version: self.version.clone() }
    }

    /// Copies range after range and hands each over.
    ///
    /// # Errors
    /// `OutOfRange`; `Invalid` if the sink keeps every buffer, or a range is longer than one.
    pub(super) fn stream(
        &self,
        store: &MemoryStore,
        name: &ObjectName,
        ranges: &[ByteRange],
        stream: &mut Stream<'_>,
    ) -> Result<ObjectMeta> {
        let meta = self.meta(name);
        let sources = ranges.iter().map(|&ByteRange { offset, len }| {
            let out = || out_of_range(store, name, (offset, len), meta.len);
            self.range(offset, len).ok_or_else(out)
        });
        // A range behind the end is refused before anything is handed over.
        let sources = sources.collect::<Result<Vec<_>>>()?;
        for (index, (range, bytes)) in ranges.iter().zip(sources).enumerate() {
            if stream.stopped() {
                break;
            }
            let mut buffer = stream.buffer(store, *range)?;
            buffer.copy_from_slice(bytes);
            stream.filled(&meta, index, buffer);
        }
        Ok(meta)
    }

    fn range(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }

    /// Copies every part; the name of the part that does not fit otherwise.
    pub(super) fn fill(&self, parts: &mut [ReadPart]) -> Result<(), (u64, usize)> {
        for part in parts {
            let len = part.buffer.len();
            let bytes = self.range(part.offset, len).ok_or((part.offset, len))?;
            part.buffer.copy_from_slice(bytes);
        }
        Ok(())
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents")
            .field("objects", &self.objects.len())
            .field("records", &self.records.len())
            .finish()
    }
}
