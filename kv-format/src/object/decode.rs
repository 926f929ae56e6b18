//! Bytes to header. Trusts nothing: every access is bounds-checked, nothing is allocated before the input has been measured, and the
//! checksum is verified before any field that it covers is believed.

#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use super::layout::{MAX_OBJECT, alignment, header_len, section_bytes};
use super::{MAGIC, ObjectHeader, ObjectIdentity, ObjectLayout, PRODUCER_BYTES, Section, encode, field};
use crate::{
    Checksum, ChunkKey, Dtype, Error, ErrorKind, FORMAT_MAJOR, HEADER_PAGE, NamespaceDigest, Result,
    RopePairing, ScaleDirection, ScaleGranularity, Scales, Slice, TensorKind,
};

/// Required features that this version knows: none yet.
const KNOWN_FEATURES: u64 = 0;

impl ObjectHeader {
    /// Decodes a header from the first bytes of an object that is `object_len` bytes long.
    ///
    /// Never panics, and allocates no more than a small multiple of `bytes`.
    ///
    /// # Errors
    /// * [`NotKvObject`](ErrorKind::NotKvObject): another magic.
    /// * [`Incompatible`](ErrorKind::Incompatible): another major version, an unknown required feature, dtype, tensor kind, rope
    ///   pairing, scale granularity or direction.
    /// * [`Truncated`](ErrorKind::Truncated): `bytes` ends before the header does, or the object has another length than it says.
    /// * [`Corrupt`](ErrorKind::Corrupt): the checksum or a rule of the format does not hold.
    pub fn decode(bytes: &[u8], object_len: u64) -> Result<Self> {
        let fixed = Fields(bytes);
        if fixed.array::<8>(0)? != MAGIC {
            return Err(Error::new(ErrorKind::NotKvObject, "the first 8 bytes are not those of a KV object"));
        }
        let major = fixed.u16(field::VERSION_MAJOR)?;
        if major != FORMAT_MAJOR {
            return Err(Error::incompatible(format!(
                "format major version {major}: this reader knows {FORMAT_MAJOR}"
            )));
        }
        let len = fixed.u32(field::HEADER_LEN)? as usize;
        if len < HEADER_PAGE || !len.is_multiple_of(HEADER_PAGE) {
            return Err(Error::corrupt(format!(
                "a header of {len} bytes: expected whole pages of {HEADER_PAGE}"
            )));
        }
        let header = Fields(bytes.get(..len).ok_or_else(|| short(len))?);
        header.verify_checksum()?;
        let features = header.u64(field::FEATURES)?;
        if features & !KNOWN_FEATURES != 0 {
            return Err(Error::incompatible(format!(
                "required features {features:#x}: this reader knows {KNOWN_FEATURES:#x}"
            )));
        }
        let announced = header.u64(field::OBJECT_LEN)?;
        if announced > MAX_OBJECT {
            return Err(Error::corrupt(format!("an object of {announced} bytes: at most {MAX_OBJECT}")));
        }
        if announced != object_len {
            return Err(Error::truncated(format!(
                "the object has {object_len} bytes, but its header says {announced}"
            )));
        }
        let mut identity = header.identity()?;
        let form = header.scale_form()?;
        let (layout, checksums) =
            header.table(&identity, form.map(|(granularity, _)| granularity), object_len)?;
        let scales = layout.sections.iter().find(|section| section.kind.is_scale());
        identity.scales = form.zip(scales).map(|((granularity, direction), section)| Scales {
            granularity,
            direction,
            dtype: section.dtype,
        });
        let producer = header.producer()?;
        let decoded = Self { identity, layout, checksums, producer };
        header.verify_canonical(&decoded)?;
        Ok(decoded)
    }
}

/// Bounds-checked little-endian reads.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    #[inline(always)]
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let end = at.checked_add(N).ok_or_else(|| short(at))?;
        self.0.get(at..end).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| short(end))
    }

    fn u16(&self, at: usize) -> Result<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// The header checksum is computed with its own field taken as zero.
    fn verify_checksum(&self) -> Result<()> {
        let stored = self.u64(field::CHECKSUM)?;
        let mut computed = Checksum::new();
        computed.update(self.0.get(..field::CHECKSUM).unwrap_or_default());
        computed.update(&[0; 8]);
        computed.update(self.0.get(field::CHECKSUM + 8..).unwrap_or_default());
        if computed.value() == stored {
            return Ok(());
        }
        Err(Error::corrupt(format!("header checksum {:016x}, computed {:016x}", stored, computed.value())))
    }

    fn identity(&self) -> Result<ObjectIdentity> {
        let flags = self.u16(field::FLAGS)?;
        if flags & !(field::HAS_PARENT | field::IS_TAIL) != 0 {
            return Err(Error::corrupt(format!("unknown flags {flags:#06x}")));
        }
        let slice = Slice {
            group: self.u32(field::GROUP)?,
            layers: self.u32(field::LAYER_START)?..self.u32(field::LAYER_END)?,
            heads: self.u32(field::HEAD_START)?..self.u32(field::HEAD_END)?,
        };
        let identity = ObjectIdentity {
            namespace: NamespaceDigest(self.array(field::NAMESPACE)?),
            key: ChunkKey(self.array(field::KEY)?),
            parent: (flags & field::HAS_PARENT != 0).then_some(ChunkKey(self.array(field::PARENT)?)),
            chunk_index: self.u32(field::CHUNK_INDEX)?,
            token_start: self.u64(field::TOKEN_START)?,
            token_count: self.u32(field::TOKEN_COUNT)?,
            tail: flags & field::IS_TAIL != 0,
            slice_index: self.u32(field::SLICE)?,
            slice,
            rope: RopePairing::from_code(self.u16(field::ROPE)?)?,
            scales: None, // their dtype is in the table
        };
        if identity.slice.layers.is_empty() || identity.slice.heads.is_empty() || identity.token_count == 0 {
            return Err(Error::corrupt("the object has no layers, no heads or no tokens"));
        }
        if identity.parent.is_some() != (identity.chunk_index > 0) {
            return Err(Error::corrupt(format!(
                "chunk {} and its parent flag contradict each other",
                identity.chunk_index
            )));
        }
        Ok(identity)
    }

    /// Granularity and direction of the scales, `None` if there are none.
    fn scale_form(&self) -> Result<Option<(ScaleGranularity, ScaleDirection)>> {
        match (self.u16(field::SCALE_GRANULARITY)?, self.u16(field::SCALE_DIRECTION)?) {
            (0, 0) => Ok(None),
            (granularity, direction) => {
                let known = |code: u16| (code != 0).then_some(code);
                let granularity = known(granularity).map(ScaleGranularity::from_code).transpose()?;
                let direction = known(direction).map(ScaleDirection::from_code).transpose()?;
                granularity.zip(direction).map(Some).ok_or_else(|| {
                    Error::corrupt("scale granularity and direction contradict each other: one is 0")
                })
            }
        }
    }

    /// The tensor table: whole layers in order, each with all kinds of one KV group in order, aligned, without gaps but padding.
    fn table(
        &self,
        identity: &ObjectIdentity,
        scales: Option<ScaleGranularity>,
        object_len: u64,
    ) -> Result<(ObjectLayout, Vec<u64>)> {
        let tensors = u64::from(self.u32(field::TENSORS)?);
        if tensors == 0 || header_len(tensors) != self.0.len() as u64 {
            return Err(Error::corrupt(format!("{tensors} sections in a header of {} bytes", self.0.len())));
        }
        let slice = &identity.slice;
        let heads = slice.heads.end - slice.heads.start;
        let alignment_field = self.u32(field::ALIGNMENT)?;
        // The header is as long as its table, so these are bounded by the input.
        let count = usize::try_from(tensors).unwrap_or(0);
        let mut sections: Vec<Section> = Vec::with_capacity(count);
        let mut checksums = Vec::with_capacity(count);
        let mut next = self.0.len() as u64;
        let table = self.0.get(field::TABLE..).unwrap_or_default();
        // Of arrays, the bounds of an entry's fields are known when this is compiled.
        let (entries, _) = table.as_chunks::<{ field::TENSOR_BYTES }>();
        for entry in entries.iter().take(count) {
            let entry = Fields(entry);
            let section = Section {
                layer: entry.u32(0)?,
                kind: TensorKind::from_code(entry.u16(4)?)?,
                dtype: Dtype::from_code(entry.u16(6)?)?,
                shape: [entry.u32(8)?, entry.u32(12)?, entry.u32(16)?],
                offset: entry.u64(24)?,
                len: entry.u64(32)?,
            };
            let [.., dim] = section.shape;
            let right = slice.layers.contains(&section.layer)
                && section.shape == section.kind.shape(scales, identity.token_count, heads, dim)
                && section_bytes(section.shape, section.dtype) == Some(section.len)
                && section.len > 0
                && section.offset == next
                && section.len <= object_len.saturating_sub(next);
            if !right {
                return Err(Error::corrupt(format!(
                    "table entry {} is no section of the slice at {next}: {section:?}",
                    sections.len()
                )));
            }
            next =
                (section.offset + section.len).next_multiple_of(u64::from(alignment_field.clamp(64, 4096)));
            checksums.push(entry.u64(40)?);
            sections.push(section);
        }
        verify_layers(&sections, &slice.layers, scales.is_some())?;
        let end = sections.last().map_or(0, |last| last.offset + last.len);
        if end != object_len {
            return Err(Error::corrupt(format!(
                "the last section ends at {end}, but the object has {object_len} bytes"
            )));
        }
        let shortest = sections.iter().map(|section| section.len).min().unwrap_or(0);
        if alignment_field != alignment(shortest) {
            return Err(Error::corrupt(format!(
                "sections aligned to {alignment_field}: expected {}",
                alignment(shortest)
            )));
        }
        let header_len = self.0.len() as u64;
        Ok((ObjectLayout { header_len, alignment: alignment_field, object_len, sections }, checksums))
    }

    /// UTF-8 and then nothing but zeros: what the writer wrote, so that no bytes hide behind the text.
    fn producer(&self) -> Result<String> {
        let bytes: [u8; PRODUCER_BYTES] = self.array(field::PRODUCER)?;
        let text = std::str::from_utf8(&bytes).map(|text| text.trim_end_matches('\0'));
        text.ok()
            .filter(|text| !text.contains('\0'))
            .map(str::to_owned)
            .ok_or_else(|| Error::corrupt("the producer is not UTF-8 padded with zeros"))
    }

    /// Every field has one encoding: what was decoded encodes to the bytes that were read, and the content digest is its own.
    /// A newer minor version may use the reserved bytes.
    fn verify_canonical(&self, decoded: &ObjectHeader) -> Result<()> {
        let bytes = encode::fixed_and_table(decoded);
        let minor_end = field::VERSION_MINOR + 2;
        let newer_minor = self.u16(field::VERSION_MINOR)? > super::FORMAT_MINOR;
        let same = |range: Range<usize>| self.0.get(range.clone()) == bytes.get(range);
        let fixed = same(0..field::VERSION_MINOR) && same(minor_end..field::CONTENT_DIGEST);
        let table = same(field::TABLE..bytes.len());
        let zero = |from: usize, to: usize| {
            self.0.get(from..to).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
        };
        let reserved =
            newer_minor || (zero(field::RESERVED, field::TABLE) && zero(bytes.len(), self.0.len()));
        if !fixed || !table || !reserved {
            return Err(Error::corrupt(
                "a field of the header has a value that no writer of this version writes",
            ));
        }
        if self.array::<32>(field::CONTENT_DIGEST)? != encode::content_digest(&bytes).0 {
            return Err(Error::corrupt(
                "the content digest does not belong to the identity and the section checksums",
            ));
        }
        Ok(())
    }
}

/// Whether the sections are those of whole layers from the first of the slice to its last, each with the same tensors: those of one
/// KV group, with scales if the header announces some.
fn verify_layers(sections: &[Section], layers: &Range<u32>, scaled: bool) -> Result<()> {
    let first = sections.iter().take_while(|section| section.layer == layers.start).count();
    let (of_a_layer, _) = sections.split_at_checked(first).unwrap_or_default();
    let kinds: Vec<TensorKind> = of_a_layer.iter().map(|section| section.kind).collect();
    if !TensorKind::are_a_group(&kinds, scaled) {
        return Err(Error::corrupt(format!(
            "layer {} has tensors {kinds:?}, which are no KV group {} scales",
            layers.start,
            if scaled { "with" } else { "without" }
        )));
    }
    let dtype =
        |scale| of_a_layer.iter().find(|section| section.kind.is_scale() == scale).map(|one| one.dtype);
    let (elements, scales) = (dtype(false), dtype(true));
    let uniform = of_a_layer
        .iter()
        .all(|section| Some(section.dtype) == if section.kind.is_scale() { scales } else { elements });
    if !uniform || scales.is_some_and(|dtype| !Scales::DTYPES.contains(&dtype)) {
        return Err(Error::corrupt(format!("the tensors of a layer mix dtypes: {of_a_layer:?}")));
    }
    let mut layer_before = None;
    for (number, layer) in sections.chunks(first.max(1)).enumerate() {
        let same = layer.len() == first
            && layer
                .iter()
                .zip(of_a_layer)
                .all(|(a, b)| (a.kind, a.dtype, a.shape) == (b.kind, b.dtype, b.shape));
        let index = layer.first().map(|section| section.layer);
        let whole = layer.iter().all(|section| Some(section.layer) == index);
        if !(same && whole && index > layer_before) {
            return Err(Error::corrupt(format!(
                "the tensors of the slice's layer number {number} are not those of its first, or out of order"
            )));
        }
        layer_before = index;
    }
    if layer_before.and_then(|last| last.checked_add(1)) != Some(layers.end) {
        return Err(Error::corrupt(format!("the table does not end with the last layer of {layers:?}")));
    }
    Ok(())
}

fn short(needed: usize) -> Error {
    Error::truncated(format!("the header ends before byte {needed}"))
}
