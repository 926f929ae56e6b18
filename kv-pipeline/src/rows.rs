//! Rows: how a chunk moves where the device copies rows of the engine's memory and does not pick single heads out of them.
//!
//! A row has all heads of the rank, a slice some of them. Between the two, in staging, the host interleaves: on a save it picks a slice's
//! heads out of rows, on a load it lays the slices' sections side by side in rows. The plan is kv-format's; here is where it is applied,
//! in batches of as many sections as fit one staging part.

use std::ops::Range;
use std::sync::Arc;

use kv_format::kernels::{self, Destination};
use kv_format::{LayerPlan, RowPlan, SectionPlace, Transfer};

use crate::parts::{Part, PlannedObject, index, not_held};
use crate::{Error, Registered, Result};

/// The rows of one object's chunk, and the host's step between them and the object.
#[derive(Debug)]
pub(crate) struct ObjectRows {
    plan: RowPlan,
    host: Arc<LayerPlan>,
}

/// Sections whose rows move in one call, each with its part and its place in the row buffer.
pub(crate) type Batch = Vec<(usize, Range<usize>)>;

impl ObjectRows {
    /// # Errors
    /// `Invalid` if the rows of one section do not fit a staging part.
    pub(crate) fn new(plan: RowPlan, host: Arc<LayerPlan>, part_bytes: usize) -> Result<Self> {
        let longest = plan.device().kinds().map(|kind| plan.device().section_bytes(kind)).max().unwrap_or(0);
        if longest > part_bytes as u64 {
            return Err(Error::invalid(format!(
                "staging parts of {part_bytes} bytes cannot hold the rows of a section, {longest} bytes with all heads of the rank: give part_bytes({}) or more",
                longest.next_multiple_of(kv_memory::BUFFER_ALIGNMENT as u64)
            )));
        }
        Ok(Self { plan, host })
    }
}

impl PlannedObject {
    /// Whether a section moves in rows.
    pub(crate) fn in_rows(&self, section: usize) -> bool {
        let kind = self.layout.sections[section].kind;
        self.rows.as_ref().is_some_and(|rows| rows.plan.has(kind))
    }

    /// Cuts `sections`, all of which move in rows, so that each batch fits a row buffer of so many bytes.
    pub(crate) fn row_batches(&self, sections: impl Iterator<Item = usize>, bytes: usize) -> Vec<Batch> {
        let Some(rows) = &self.rows else { return Vec::new() };
        let mut batches: Vec<Batch> = Vec::new();
        for section in sections {
            let len = index(rows.plan.device().section_bytes(self.layout.sections[section].kind));
            // Every area begins at a page, where copies by DMA like it.
            let start = batches
                .last()
                .and_then(|batch| batch.last())
                .map_or(0, |(_, range)| range.end.next_multiple_of(kv_memory::BUFFER_ALIGNMENT));
            match batches.last_mut() {
                Some(batch) if start.saturating_add(len) <= bytes => {
                    batch.push((section, start..start + len));
                }
                _ => batches.push(vec![(section, 0..len)]),
            }
        }
        batches
    }

    /// The device call between the engine's memory and the row buffer.
    pub(crate) fn row_transfer(&self, registered: &Registered, batch: &Batch) -> Result<Transfer> {
        let group = self.identity.slice.group;
        let geometry = registered.geometry(group).ok_or_else(|| not_held(group))?;
        let rows = self.rows.as_ref().ok_or_else(|| Error::invalid(format!("{} has no rows", self.name)))?;
        let place = |(section, area): &(usize, Range<usize>)| {
            let section = &self.layout.sections[*section];
            let tensor = geometry.tensor(section.layer, section.kind)?;
            let staging = area.start as u64;
            Some(SectionPlace { region: tensor.region, device: tensor.offset, staging, kind: section.kind })
        };
        let sections = batch.iter().map(place).collect::<Option<Vec<_>>>().ok_or_else(|| not_held(group))?;
        Ok(Transfer { plan: Arc::clone(rows.plan.device()), sections })
    }

    /// Picks this object's heads out of the rows of a batch into the buffer of `part`.
    pub(crate) fn pick(&self, part: &Part, batch: &Batch, rows: &[u8], buffer: &mut [u8]) {
        for (section, area) in batch {
            if let Some(planned) = &self.rows {
                let section_bytes = &mut buffer[self.range_in(part, *section)];
                let kind = self.layout.sections[*section].kind;
                kernels::gather(&planned.host, kind, &rows[area.clone()], section_bytes, Destination::Hot);
            }
        }
    }

    /// Lays a section of this object, from the buffer of `part`, into its place among the rows.
    pub(crate) fn lay(&self, part: &Part, section: usize, buffer: &[u8], rows: &mut [u8]) {
        if let Some(planned) = &self.rows {
            let kind = self.layout.sections[section].kind;
            let section_bytes = &buffer[self.range_in(part, section)];
            kernels::scatter(&planned.host, kind, section_bytes, rows, Destination::Hot);
        }
    }
}

/// The objects of a chunk by what moves together: each alone, or, in rows, those with the same layers of one KV group, whose heads
/// together are the rank's. The numbers are those of the objects.
pub(crate) fn together(objects: &[Arc<PlannedObject>]) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        let slice =
            |object: &PlannedObject| (object.identity.slice.group, object.identity.slice.layers.clone());
        let same = |set: &&mut Vec<usize>| {
            let first = &objects[set[0]];
            object.rows.is_some() && first.rows.is_some() && slice(first) == slice(object)
        };
        match sets.iter_mut().find(same) {
            Some(set) => set.push(number),
            None => sets.push(vec![number]),
        }
    }
    sets
}
