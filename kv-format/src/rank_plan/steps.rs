//! The steps of one chunk: what the device moves, and what the host interleaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ChunkPlan, GroupPlan, ObjectPart, RankPlan, SlicePlan};
use crate::{Error, LayerPlan, Result, Section, SectionPlace, TensorKind, Transfer};

/// Objects and row areas begin at pages of the staging.
const PAGE: u64 = 4096;

/// Which way a chunk moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Movement {
    /// From the engine's memory: the device's step first, then the host's.
    Save,
    /// To the engine's memory: the host's step first, then the device's. Scales that are fixed for every token do not move: whoever
    /// loads compares those that are stored with the engine's.
    Load,
}

/// How one chunk moves between the engine's memory and staging.
#[derive(Debug, Clone)]
pub struct Steps {
    /// The parts of objects, and where the first byte of each part is in the staging.
    pub objects: Vec<(ObjectPart, u64)>,
    /// Between the engine's memory and the staging: sections of objects, and row areas.
    pub device: Vec<Transfer>,
    /// Between the row areas and the sections of objects; empty for a device that moves any run.
    pub host: Vec<HostStep>,
    /// Bytes of staging: the objects, then the row areas.
    pub staging_bytes: u64,
}

/// Strided runs between row areas and the sections of one object, both in staging.
#[derive(Debug, Clone)]
pub struct HostStep {
    /// The runs of each kind: its device side is the row area.
    pub plan: Arc<LayerPlan>,
    /// Which row area goes with which section.
    pub moves: Vec<RowMove>,
}

/// A row area and a section that hold the same elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RowMove {
    /// What they hold.
    pub kind: TensorKind,
    /// First byte of the row area in the staging.
    pub rows: u64,
    /// First byte of the section in the staging.
    pub section: u64,
}

/// First byte in the staging of the row area of each (group, layer, kind).
type RowStarts = BTreeMap<(usize, u32, TensorKind), u64>;

impl HostStep {
    /// Calls `copy(byte of the staging in a row area, byte of the staging in a section, bytes)` for every contiguous run.
    pub fn for_each_run(&self, mut copy: impl FnMut(u64, u64, u64)) {
        for RowMove { kind, rows, section } in &self.moves {
            self.plan.for_each_run(*kind, |row, at, bytes| copy(rows + row, section + at, bytes));
        }
    }
}

impl RankPlan {
    /// The steps of the chunk with this number among those that were planned.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a number that none has.
    pub fn steps(&self, chunk: usize, movement: Movement) -> Result<Steps> {
        let planned = self.chunks.get(chunk);
        let planned = planned.ok_or_else(|| Error::invalid(format!("chunk {chunk} was not planned")))?;
        let mut steps = Steps { objects: Vec::new(), device: Vec::new(), host: Vec::new(), staging_bytes: 0 };
        for object in self.objects_of(chunk) {
            let start = steps.staging_bytes.next_multiple_of(PAGE);
            steps.staging_bytes = start + (object.bytes.end - object.bytes.start);
            steps.objects.push((object, start));
        }
        let areas = self.place_rows(planned, movement, &mut steps);
        let moving = self.slices.iter().filter(|slice| slice.window(&planned.chunk).is_some());
        for (slice, index) in moving.zip(0..) {
            let staging = steps.objects.get(index).map_or(0, |(_, start)| *start);
            self.place_sections((planned, movement), slice, staging, &areas, &mut steps);
        }
        Ok(steps)
    }

    /// Gives each (group, layer, kind) that the device moves in rows an area, and adds the device's transfers.
    fn place_rows(&self, planned: &ChunkPlan, movement: Movement, steps: &mut Steps) -> RowStarts {
        let mut areas = RowStarts::new();
        for (group, GroupPlan { rows, .. }) in planned.groups.iter().enumerate() {
            let Some(rows) = rows else { continue };
            let mut sections = Vec::new();
            for slice in self.slices.iter().filter(|slice| slice.group == group) {
                for (section, base) in self.moving(slice, planned, movement) {
                    let bytes = rows.device.section_bytes(section.kind);
                    let key = (group, section.layer, section.kind);
                    if bytes == 0 || areas.contains_key(&key) {
                        continue;
                    }
                    let start = steps.staging_bytes.next_multiple_of(PAGE);
                    steps.staging_bytes = start + bytes;
                    areas.insert(key, start);
                    let kind = section.kind;
                    sections.push(SectionPlace {
                        region: base.region,
                        device: base.offset,
                        staging: start,
                        kind,
                    });
                }
            }
            if !sections.is_empty() {
                steps.device.push(Transfer { plan: Arc::clone(&rows.device), sections });
            }
        }
        areas
    }

    /// Adds the transfers of one object, whose part begins at `staging`.
    fn place_sections(
        &self,
        (planned, movement): (&ChunkPlan, Movement),
        slice: &SlicePlan,
        staging: u64,
        areas: &RowStarts,
        steps: &mut Steps,
    ) {
        let group = planned.groups.get(slice.group).zip(self.geometries.get(slice.group));
        let (Some((GroupPlan { direct, rows }, geometry)), Some(window)) =
            (group, slice.window(&planned.chunk))
        else {
            return;
        };
        let mut host = rows.as_ref().map(|rows| rows.host(geometry, &slice.slice.heads));
        let mut sections = Vec::with_capacity(slice.bases.len());
        for (section, base) in self.moving(slice, planned, movement) {
            let kind = section.kind;
            let staging = staging + (section.offset - window.bytes.start);
            match (areas.get(&(slice.group, section.layer, kind)), &mut host) {
                (Some(rows), Some(host)) => {
                    host.moves.push(RowMove { kind, rows: *rows, section: staging });
                }
                _ => {
                    let device = base.offset + slice.shift(kind);
                    sections.push(SectionPlace { region: base.region, device, staging, kind });
                }
            }
        }
        if let Some(plan) = direct.get(slice.direct).filter(|_| !sections.is_empty()) {
            steps.device.push(Transfer { plan: Arc::clone(plan), sections });
        }
        steps.host.extend(host);
    }
}

impl RankPlan {
    /// The sections of a chunk's object that move, with the base of the tensor of each.
    fn moving<'a>(
        &'a self,
        slice: &'a SlicePlan,
        planned: &ChunkPlan,
        movement: Movement,
    ) -> impl Iterator<Item = (&'a Section, &'a crate::TensorBase)> + 'a + use<'a> {
        let geometry = self.geometries.get(slice.group);
        let fixed = move |kind| geometry.is_some_and(|geometry| geometry.is_static(kind));
        let kept = move |section: &Section| movement == Movement::Save || !fixed(section.kind);
        slice.sections(planned).filter(move |(section, _)| kept(section))
    }
}

impl SlicePlan {
    /// The sections of the planned layers in a chunk's object, with the base of the tensor of each.
    fn sections<'a>(
        &'a self,
        planned: &ChunkPlan,
    ) -> impl Iterator<Item = (&'a Section, &'a crate::TensorBase)> + 'a + use<'a> {
        let window = self.window(&planned.chunk);
        let sections = window.and_then(|window| window.layout.sections.get(window.sections.clone()));
        sections.unwrap_or_default().iter().zip(&self.bases)
    }
}
