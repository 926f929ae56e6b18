//! How an object is cut into staging parts: contiguous ranges of whole sections, the header in the first.

use std::ops::Range;
use std::sync::Arc;

use kv_format::{
    Chunk, LayerPlan, ObjectHeader, ObjectIdentity, ObjectLayout, ObjectName, RowPlan, ScaleGranularity,
    Scales, Section, SectionPlace, Transfer,
};

use crate::blocks::SequenceBlocks;
use crate::load::StaticScales;
use crate::pipeline::Core;
use crate::rows::ObjectRows;
use crate::{Error, Registered, Result};

/// Bytes of [`PlannedObject::few_at_a_time`]: with 64 and with 256 KiB saves were slower by a tenth (ADR 31).
const FEW_BYTES: usize = 128 << 10;

/// One contiguous range of an object that fits a staging part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// First byte in the object.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: usize,
    /// Indices of the sections that it holds.
    pub(crate) sections: Range<usize>,
}

/// One object that a rank saves or loads: what it is, and how it moves.
#[derive(Debug)]
pub(crate) struct PlannedObject {
    pub(crate) name: ObjectName,
    pub(crate) identity: ObjectIdentity,
    pub(crate) layout: ObjectLayout,
    pub(crate) parts: Vec<Part>,
    plan: Arc<LayerPlan>,
    /// Where the device moves longer rows than this object's.
    pub(crate) rows: Option<ObjectRows>,
    /// What a load demands of the stored scales.
    static_scales: Arc<StaticScales>,
}

impl PlannedObject {
    /// Plans one slice of a chunk.
    pub(crate) fn new(
        core: &Core,
        registered: &Registered,
        chunk: &Chunk,
        slice: u32,
        blocks: &SequenceBlocks,
    ) -> Result<Self> {
        let identity = ObjectIdentity::new(&core.namespace, chunk, slice)?;
        let layout = ObjectLayout::new(&core.namespace, &identity.slice, identity.token_count)?;
        let parts = cut(&layout, core.pool.part_bytes())?;
        let heads = identity.slice.heads.clone();
        let group = identity.slice.group;
        let geometry = registered.geometry(group).ok_or_else(|| not_held(group))?;
        let (blocks, tokens) = (blocks.of(group), &chunk.tokens);
        let plan = Arc::new(LayerPlan::new(geometry, blocks, tokens.clone(), heads.clone())?);
        let granularity = core.device.capabilities().granularity;
        let rows = match RowPlan::new(geometry, &plan, blocks, tokens, granularity) {
            Some(rows) => {
                let host = rows.host(geometry, &heads);
                Some(ObjectRows::new(rows, host, core.pool.part_bytes())?)
            }
            None => None,
        };
        let name =
            ObjectName { namespace: identity.namespace, key: chunk.key, chunk_index: chunk.index, slice };
        Ok(Self { name, identity, layout, parts, plan, rows, static_scales: Arc::default() })
    }

    /// The object for an engine that has these fixed scales.
    pub(crate) fn expecting(self, scales: &Arc<StaticScales>) -> Self {
        Self { static_scales: Arc::clone(scales), ..self }
    }

    /// Whether a thread of the store can move a part between the store and the engine's memory alone.
    pub(crate) fn moves_on_store_threads(&self, core: &Core, registered: &Registered) -> bool {
        core.store.calls_back_on_own_threads() && registered.memory().copies_now() && self.rows.is_none()
    }

    /// The object in parts of the size that the store likes, where its sections allow it: for whoever is done with each part as it
    /// comes, so that its bytes are still in the cache for all that is done to them.
    pub(crate) fn in_parts_of_store(self, core: &Core) -> Result<Self> {
        let bytes = core.store.capabilities().part_bytes.min(core.pool.part_bytes());
        let parts = cut(&self.layout, bytes.max(longest(&self.layout)))?;
        Ok(Self { parts, ..self })
    }

    /// A part in runs of few sections, for whoever does two things to each byte: between them it stays in a second-level cache, beside
    /// what it was copied from.
    pub(crate) fn few_at_a_time(&self, part: &Part) -> Vec<Part> {
        let mut runs: Vec<Part> = Vec::new();
        let mut begin = 0;
        for section in part.sections.clone() {
            let range = self.range_in(part, section);
            match runs.last_mut() {
                Some(run) if range.end - begin <= FEW_BYTES => run.sections.end = section + 1,
                _ => {
                    begin = range.start;
                    runs.push(Part { sections: section..section + 1, ..*part });
                }
            }
        }
        runs
    }

    /// Whether a header is this object's, and its fixed scales the engine's.
    ///
    /// # Errors
    /// `Incompatible` naming what differs.
    pub(crate) fn expect(&self, header: &ObjectHeader) -> kv_format::Result<()> {
        header.expect(&self.identity, &self.layout)?;
        self.static_scales.check(self, header)
    }

    /// Whether a section holds scales that are fixed for every token.
    fn is_static(&self, section: &Section) -> bool {
        let fixed = |scales: Scales| scales.granularity != ScaleGranularity::PerTokenHead;
        section.kind.is_scale() && self.identity.scales.is_some_and(fixed)
    }

    /// The sections that are fixed for every token, in lists of which each fits `bytes`.
    pub(crate) fn static_batches(&self, bytes: usize) -> Vec<Vec<usize>> {
        let mut batches: Vec<(u64, Vec<usize>)> = Vec::new();
        for (number, section) in self.layout.sections.iter().enumerate().filter(|(_, s)| self.is_static(s)) {
            match batches.last_mut() {
                Some((len, batch)) if *len + section.len <= bytes as u64 => {
                    *len += section.len;
                    batch.push(number);
                }
                _ => batches.push((section.len, vec![number])),
            }
        }
        batches.into_iter().map(|(_, batch)| batch).collect()
    }

    /// Bytes of the header.
    pub(crate) fn header_len(&self) -> usize {
        index(self.layout.header_len)
    }

    /// Where a section's bytes are in the buffer of its part.
    pub(crate) fn range_in(&self, part: &Part, section: usize) -> Range<usize> {
        let section = &self.layout.sections[section];
        let start = index(section.offset - part.offset);
        start..start + index(section.len)
    }

    /// A device call that moves nothing, for its fence.
    pub(crate) fn nothing(&self) -> Transfer {
        Transfer { plan: Arc::clone(&self.plan), sections: Vec::new() }
    }

    /// The device call that moves the sections of a part, but for those that move in rows.
    pub(crate) fn transfer(&self, registered: &Registered, part: &Part) -> Result<Transfer> {
        self.direct(registered, part, part.sections.clone())
    }

    /// The device call that writes the sections of a part into the engine's memory: all that are [`moving`](Self::moving), but for
    /// those that move in rows.
    pub(crate) fn delivery(&self, registered: &Registered, part: &Part) -> Result<Transfer> {
        self.direct(registered, part, self.moving(part))
    }

    /// The sections of a part that a load writes: all but fixed scales, which the engine has.
    pub(crate) fn moving(&self, part: &Part) -> impl Iterator<Item = usize> + '_ {
        part.sections.clone().filter(|section| !self.is_static(&self.layout.sections[*section]))
    }

    fn direct(
        &self,
        registered: &Registered,
        part: &Part,
        sections: impl Iterator<Item = usize>,
    ) -> Result<Transfer> {
        let direct = sections.filter(|section| !self.in_rows(*section));
        self.place(registered, direct.map(|section| (section, self.range_in(part, section).start)))
    }

    /// The device call that moves some sections, one behind the other in staging, and where they are there.
    pub(crate) fn transfer_of(
        &self,
        registered: &Registered,
        sections: &[usize],
    ) -> Result<(Transfer, Vec<Range<usize>>)> {
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(sections.len());
        for section in sections {
            let start = ranges.last().map_or(0, |range| range.end);
            ranges.push(start..start + index(self.layout.sections[*section].len));
        }
        let places = sections.iter().zip(&ranges).map(|(section, range)| (*section, range.start));
        Ok((self.place(registered, places)?, ranges))
    }

    /// The device call that moves sections, each with its first byte in staging.
    fn place(
        &self,
        registered: &Registered,
        sections: impl Iterator<Item = (usize, usize)>,
    ) -> Result<Transfer> {
        let group = self.identity.slice.group;
        let geometry = registered.geometry(group).ok_or_else(|| not_held(group))?;
        let place = |(section, staging): (usize, usize)| {
            let section = &self.layout.sections[section];
            let (tensor, staging) = (geometry.tensor(section.layer, section.kind)?, staging as u64);
            Some(SectionPlace { region: tensor.region, device: tensor.offset, staging, kind: section.kind })
        };
        let sections = sections.map(place).collect::<Option<Vec<_>>>();
        let sections = sections.ok_or_else(|| {
            Error::invalid(format!("{} has a layer that the rank does not hold", self.name))
        })?;
        Ok(Transfer { plan: Arc::clone(&self.plan), sections })
    }
}

pub(crate) fn not_held(group: u32) -> Error {
    Error::invalid(format!("the rank has no geometry of KV group {group}"))
}

/// Bytes of the shortest part that holds each section, or the header.
fn longest(layout: &ObjectLayout) -> usize {
    let ends = layout.sections.iter().skip(1).map(|next| next.offset).chain([layout.object_len]);
    let sections = layout.sections.iter().zip(ends).map(|(section, end)| end - section.offset);
    index(sections.fold(layout.header_len, u64::max))
}

/// Cuts an object into ranges of whole sections of at most `part_bytes`, a multiple of every alignment. A range includes the padding
/// behind its sections, so that the ranges cover the object.
fn cut(layout: &ObjectLayout, part_bytes: usize) -> Result<Vec<Part>> {
    let too_long = |len: u64| {
        Error::invalid(format!(
            "{len} bytes of a header or section do not fit a staging part of {part_bytes} bytes"
        ))
    };
    if layout.header_len > part_bytes as u64 {
        return Err(too_long(layout.header_len));
    }
    let mut parts = vec![Part { offset: 0, len: index(layout.header_len), sections: 0..0 }];
    for (number, section) in layout.sections.iter().enumerate() {
        let end = layout.sections.get(number + 1).map_or(layout.object_len, |next| next.offset);
        match parts.last_mut() {
            Some(part) if end - part.offset <= part_bytes as u64 => {
                part.len = index(end - part.offset);
                part.sections.end = number + 1;
            }
            _ if end - section.offset > part_bytes as u64 => return Err(too_long(section.len)),
            _ => parts.push(Part {
                offset: section.offset,
                len: index(end - section.offset),
                sections: number..number + 1,
            }),
        }
    }
    Ok(parts)
}

/// A length that a staging part bounds, as an index.
pub(crate) fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
