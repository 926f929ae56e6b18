//! One chunk of one KV group in rows, for whoever moves a chunk slice by slice and not as a whole: which kinds are worth it, the device's
//! runs into row areas, and the host's between a row area and a slice's sections.

use std::ops::Range;
use std::sync::Arc;

use super::rows::RowAreas;
use crate::{Geometry, Granularity, LayerPlan, TensorKind};

/// The rows of a chunk of one KV group: the same for all its slices and layers.
#[derive(Debug, Clone)]
pub struct RowPlan {
    areas: Arc<RowAreas>,
}

impl RowPlan {
    /// Plans the kinds of which `direct`, the plan of one slice of the chunk, has runs that are too short for the device, and which lie
    /// in longer rows when all heads of the rank are moved together. `None` if there are none: then `direct` is the best there is.
    ///
    /// `blocks` and `tokens` are those of `direct`. A row that is too short as well is planned all the same: it is up to the device
    /// to move or to refuse it.
    pub fn new(
        geometry: &Geometry,
        direct: &LayerPlan,
        blocks: &[u32],
        tokens: &Range<u32>,
        granularity: Granularity,
    ) -> Option<Self> {
        let Granularity::Rows { min_bytes } = granularity else { return None };
        let short = |kind: &TensorKind| direct.shortest_run(*kind).is_some_and(|run| run < min_bytes);
        let short: Vec<TensorKind> = geometry.kinds().filter(short).collect();
        let all = RowAreas::plan(geometry, &short, blocks, tokens);
        let longer = |kind: &TensorKind| all.device.shortest_run(*kind) > direct.shortest_run(*kind);
        let longer: Vec<TensorKind> = short.into_iter().filter(longer).collect();
        if longer.is_empty() {
            return None;
        }
        Some(Self { areas: Arc::new(RowAreas::plan(geometry, &longer, blocks, tokens)) })
    }

    /// Whether a kind moves in rows.
    pub fn has(&self, kind: TensorKind) -> bool {
        self.areas.device.kinds().any(|planned| planned == kind)
    }

    /// The runs between the engine's memory and a row area, which takes the place of a section: as long as
    /// [`section_bytes`](LayerPlan::section_bytes) of this plan.
    pub fn device(&self) -> &Arc<LayerPlan> {
        &self.areas.device
    }

    /// The runs between a row area, which takes the place of the engine's memory, and a section of a slice with these heads of the
    /// model.
    pub fn host(&self, geometry: &Geometry, heads: &Range<u32>) -> Arc<LayerPlan> {
        self.areas.host(geometry, heads).plan
    }
}
