//! Where the sections of an object lie: determined by namespace, slice and token count, so that a reader knows it before it reads.

use super::field;
use crate::{Dtype, Error, HEADER_PAGE, Namespace, Result, Slice, TensorKind};

/// Sections at least this long are aligned to pages; the padding then stays below a quarter.
const PAGE_ALIGNED_FROM: u64 = 16 << 10;

/// Alignment for O_DIRECT and DMA.
const PAGE: u64 = 4096;

/// Alignment where pages would be mostly padding: a cache line.
const LINE: u64 = 64;

/// Longest object, in bytes, that layouts are computed for: far above any chunk, far below overflow.
pub(super) const MAX_OBJECT: u64 = 1 << 48;

/// Longest header that layouts are computed for: 10,000 layers of K and V.
const MAX_TENSORS: u32 = 20_000;

/// One tensor of one layer as `[token][head][dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Section {
    /// Layer of the model.
    pub layer: u32,
    /// What it holds.
    pub kind: TensorKind,
    /// Type of an element.
    pub dtype: Dtype,
    /// Rows (tokens; 1 for a state and for static scales), heads, elements of a head.
    pub shape: [u32; 3],
    /// First byte in the object.
    pub offset: u64,
    /// Bytes, without padding.
    pub len: u64,
}

/// All sections of an object, and its header's and its own length.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectLayout {
    /// Bytes of the header: whole pages.
    pub header_len: u64,
    /// Alignment of the sections: 4096 or 64.
    pub alignment: u32,
    /// Bytes of the object.
    pub object_len: u64,
    /// Sections in order: by layer, then by the number of the kind.
    pub sections: Vec<Section>,
}

impl ObjectLayout {
    /// The layout of a slice of `token_count` tokens.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for no tokens, an unknown group, or an object above 2^48 bytes.
    pub fn new(namespace: &Namespace, slice: &Slice, token_count: u32) -> Result<Self> {
        let group = namespace.group(slice.group).ok_or_else(|| {
            Error::invalid(format!("slice of KV group {}: the namespace has no such group", slice.group))
        })?;
        let dtype = group.dtype.unwrap_or(namespace.dtype());
        let heads = slice.heads.end.saturating_sub(slice.heads.start);
        let granularity = group.scales.map(|scales| scales.granularity);
        let mut tensors = Vec::with_capacity(4);
        for (kind, dim) in group.tensors() {
            let dtype =
                group.scales.map_or(dtype, |scales| if kind.is_scale() { scales.dtype } else { dtype });
            let shape = kind.shape(granularity, token_count, heads, dim);
            let len = section_bytes(shape, dtype).ok_or_else(|| {
                Error::invalid(format!(
                    "a section of {token_count} tokens and {heads} heads exceeds 2^48 bytes"
                ))
            })?;
            if len == 0 || token_count == 0 {
                return Err(Error::invalid(format!(
                    "an object of {token_count} tokens and {heads} heads would be empty"
                )));
            }
            tensors.push((kind, dtype, shape, len));
        }
        let layers = group.layers.within(slice.layers.clone());
        let count = tensors.len() as u64 * u64::from(layers.count());
        if count == 0 || count > u64::from(MAX_TENSORS) {
            return Err(Error::invalid(format!(
                "{count} sections in one object: expected 1 to {MAX_TENSORS}"
            )));
        }
        let alignment = alignment(tensors.iter().map(|(.., len)| *len).min().unwrap_or(0));
        let header_len = header_len(count);
        let mut offset = header_len;
        let mut sections = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        for layer in layers.iter() {
            for &(kind, dtype, shape, len) in &tensors {
                sections.push(Section { layer, kind, dtype, shape, offset, len });
                offset = (offset + len).next_multiple_of(u64::from(alignment));
            }
        }
        let object_len = sections.last().map_or(header_len, |last| last.offset + last.len);
        if object_len > MAX_OBJECT {
            return Err(Error::invalid(format!("an object of {object_len} bytes: at most {MAX_OBJECT}")));
        }
        Ok(Self { header_len, alignment, object_len, sections })
    }
}

/// Bytes of a section, `None` above the longest object.
pub(super) fn section_bytes(shape: [u32; 3], dtype: Dtype) -> Option<u64> {
    let elements = shape.iter().try_fold(1_u64, |product, extent| product.checked_mul(u64::from(*extent)));
    elements?.checked_mul(u64::from(dtype.bytes())).filter(|bytes| *bytes <= MAX_OBJECT)
}

/// Alignment of sections whose shortest has `shortest` bytes.
pub(super) fn alignment(shortest: u64) -> u32 {
    let alignment = if shortest >= PAGE_ALIGNED_FROM { PAGE } else { LINE };
    u32::try_from(alignment).unwrap_or(u32::MAX)
}

/// Bytes of a header with `tensors` table entries.
pub(super) fn header_len(tensors: u64) -> u64 {
    (field::TABLE as u64 + tensors * field::TENSOR_BYTES as u64).next_multiple_of(HEADER_PAGE as u64)
}
