//! The object: header pages, then payload sections in the order `[layer][kind][token][head][dim]`.

mod decode;
mod encode;
mod layout;

pub use layout::{ObjectLayout, Section};

use crate::{
    Chunk, ChunkKey, ContentDigest, Error, Namespace, NamespaceDigest, Result, RopePairing, Scales, Slice,
};

/// First bytes of every object. The high bit and the line ends show a transfer that took the object for text.
pub const MAGIC: [u8; 8] = *b"\x89KVB\r\n\x1a\n";

/// Newest minor version that this crate writes. Readers take any minor of their major.
pub const FORMAT_MINOR: u16 = 0;

/// Header pages are this long.
pub const HEADER_PAGE: usize = 4096;

/// Longest text that names the producer, in bytes of UTF-8.
pub const PRODUCER_BYTES: usize = 64;

/// Where the fields of the fixed part stand (SPEC.md, `header-fields`).
mod field {
    pub(super) const VERSION_MAJOR: usize = 8;
    pub(super) const VERSION_MINOR: usize = 10;
    pub(super) const HEADER_LEN: usize = 12;
    pub(super) const FEATURES: usize = 16;
    pub(super) const OBJECT_LEN: usize = 24;
    pub(super) const PAYLOAD_OFFSET: usize = 32;
    pub(super) const ALIGNMENT: usize = 40;
    pub(super) const TENSORS: usize = 44;
    pub(super) const KEY: usize = 48;
    pub(super) const PARENT: usize = 80;
    pub(super) const NAMESPACE: usize = 112;
    pub(super) const CHUNK_INDEX: usize = 144;
    pub(super) const TOKEN_COUNT: usize = 148;
    pub(super) const TOKEN_START: usize = 152;
    pub(super) const SLICE: usize = 160;
    pub(super) const GROUP: usize = 164;
    pub(super) const LAYER_START: usize = 168;
    pub(super) const LAYER_END: usize = 172;
    pub(super) const HEAD_START: usize = 176;
    pub(super) const HEAD_END: usize = 180;
    pub(super) const ROPE: usize = 184;
    pub(super) const SCALE_GRANULARITY: usize = 186;
    pub(super) const SCALE_DIRECTION: usize = 188;
    pub(super) const FLAGS: usize = 190;
    pub(super) const CONTENT_DIGEST: usize = 192;
    pub(super) const PRODUCER: usize = 224;
    pub(super) const CHECKSUM: usize = 288;
    pub(super) const RESERVED: usize = 296;
    pub(super) const TABLE: usize = 320;
    pub(super) const TENSOR_BYTES: usize = 48;
    /// Flag: the chunk has a parent (a first chunk's parent field is zero).
    pub(super) const HAS_PARENT: u16 = 1;
    /// Flag: the chunk is a tail.
    pub(super) const IS_TAIL: u16 = 2;
}

/// What an object is: everything but its payload and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectIdentity {
    /// Namespace digest.
    pub namespace: NamespaceDigest,
    /// Key of the chunk.
    pub key: ChunkKey,
    /// Key of the chunk before.
    pub parent: Option<ChunkKey>,
    /// Position of the chunk in its chain.
    pub chunk_index: u32,
    /// Position of its first token in the sequence.
    pub token_start: u64,
    /// Number of tokens.
    pub token_count: u32,
    /// Whether the chunk is a tail.
    pub tail: bool,
    /// Index into the slice table.
    pub slice_index: u32,
    /// The slice itself.
    pub slice: Slice,
    /// Which elements of a head are rotated together.
    pub rope: RopePairing,
    /// Scales that are stored with the elements.
    pub scales: Option<Scales>,
}

impl ObjectIdentity {
    /// The identity of `slice_index` of a chunk.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the namespace has no such slice.
    pub fn new(namespace: &Namespace, chunk: &Chunk, slice_index: u32) -> Result<Self> {
        let slices = namespace.slices().slices();
        let slice = slices.get(slice_index as usize).ok_or_else(|| {
            Error::invalid(format!("slice {slice_index}: the namespace has {}", slices.len()))
        })?;
        Ok(Self {
            namespace: namespace.digest(),
            key: chunk.key,
            parent: chunk.parent,
            chunk_index: chunk.index,
            token_start: u64::from(chunk.tokens.start),
            token_count: chunk.tokens.end - chunk.tokens.start,
            tail: chunk.tail,
            slice_index,
            slice: slice.clone(),
            rope: namespace.model().rope_pairing,
            scales: namespace.group(slice.group).and_then(|group| group.scales),
        })
    }
}

/// A decoded header: an identity, a layout, a checksum per section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHeader {
    /// What the object is.
    pub identity: ObjectIdentity,
    /// Where its sections lie.
    pub layout: ObjectLayout,
    /// CRC-64/NVME of each section, in the order of the layout.
    pub checksums: Vec<u64>,
    /// Who wrote it, for people; not part of any digest.
    pub producer: String,
}

impl ObjectHeader {
    /// Digest over identity and section checksums: equal for equal payloads of one identity, whoever wrote them.
    pub fn content_digest(&self) -> ContentDigest {
        encode::content_digest(&encode::fixed_and_table(self))
    }

    /// Checks that this is the object that a reader wants.
    ///
    /// # Errors
    /// [`Incompatible`](crate::ErrorKind::Incompatible) naming the first field that differs, what was expected and what was found.
    pub fn expect(&self, identity: &ObjectIdentity, layout: &ObjectLayout) -> Result<()> {
        let (have, want) = (&self.identity, identity);
        let differ = |field: &str, have: String, want: String| {
            Err(Error::incompatible(format!("the object's {field} is {have}, but {want} is wanted")))
        };
        if have.namespace != want.namespace {
            return differ("namespace digest", have.namespace.to_string(), want.namespace.to_string());
        }
        if (have.key, have.parent) != (want.key, want.parent) {
            let chain = |it: &ObjectIdentity| format!("{} behind {:?}", it.key, it.parent);
            return differ("chunk key", chain(have), chain(want));
        }
        let tokens = |it: &ObjectIdentity| (it.chunk_index, it.token_start, it.token_count, it.tail);
        if tokens(have) != tokens(want) {
            let shown = |it| format!("(chunk, first token, tokens, tail) {:?}", tokens(it));
            return differ("token range", shown(have), shown(want));
        }
        if (have.slice_index, &have.slice) != (want.slice_index, &want.slice) {
            let shown = |it: &ObjectIdentity| format!("{} {:?}", it.slice_index, it.slice);
            return differ("slice", shown(have), shown(want));
        }
        if have.rope != want.rope {
            return differ("rope pairing", have.rope.name().to_owned(), want.rope.name().to_owned());
        }
        if have.scales != want.scales {
            let shown =
                |scales: Option<Scales>| scales.map_or("none".to_owned(), |scales| scales.to_string());
            return differ("form of scales", shown(have.scales), shown(want.scales));
        }
        if self.layout != *layout {
            let first = self.layout.sections.iter().zip(&layout.sections).find(|(have, want)| have != want);
            let shown = first.map(|(have, want)| (format!("{have:?}"), format!("{want:?}")));
            let lens =
                || (format!("{} bytes long", self.layout.object_len), format!("{}", layout.object_len));
            let (have, want) = shown.unwrap_or_else(lens);
            return differ("section layout", have, want);
        }
        Ok(())
    }
}
