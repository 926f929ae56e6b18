//! Whether a transfer stays inside its regions and its staging buffer: checked whole, before the first byte moves.

use std::fmt::Display;

use kv_format::{LayerPlan, Nest, SectionPlace, TensorKind, Transfer};

use crate::{DeviceRegion, Error, ErrorKind, Granularity, Result};

/// How far the runs of one kind reach, in bytes from the tensor's base and from the section's start.
#[derive(Debug, Clone, Copy, Default)]
struct Reach {
    device: u64,
    section: u64,
}

/// Checks that every byte of `transfer` lies in its region and in a staging buffer of `staging` bytes.
///
/// It costs O(runs + sections), never O(elements).
///
/// # Errors
/// [`Invalid`](ErrorKind::Invalid) naming the section, the region and the lengths.
pub fn check_bounds(
    device: &impl Display,
    transfer: &Transfer,
    regions: &[DeviceRegion],
    staging: usize,
) -> Result<()> {
    let overflow =
        || Error::new(ErrorKind::Invalid, device, "the plan of a transfer exceeds the address space");
    let planned = |kind| Some((kind, reach(&transfer.plan, kind)?));
    let reaches = transfer.plan.kinds().map(planned).collect::<Option<Vec<_>>>().ok_or_else(overflow)?;
    for (index, place) in transfer.sections.iter().enumerate() {
        // A kind that the plan does not have moves nothing.
        let reach = reaches
            .iter()
            .find(|(kind, _)| *kind == place.kind)
            .map_or_else(Reach::default, |(_, reach)| *reach);
        check_place(place, reach, regions, staging).map_err(|message| {
            Error::new(
                ErrorKind::Invalid,
                device,
                format!(
                    "section {index} of a transfer: {message}: register the regions of the geometry that made the plan"
                ),
            )
        })?;
    }
    Ok(())
}

/// Checks that no run is finer than the device moves.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) naming the smallest run.
pub fn check_granularity(device: &impl Display, transfer: &Transfer, granularity: Granularity) -> Result<()> {
    let Granularity::Rows { min_bytes } = granularity else {
        return Ok(());
    };
    let kinds = transfer.sections.iter().map(|place| place.kind);
    let nests = kinds.flat_map(|kind| transfer.plan.nests(kind));
    match nests.map(|nest| nest.run_bytes).min() {
        Some(bytes) if bytes < min_bytes => Err(Error::new(
            ErrorKind::Unsupported,
            device,
            format!(
                "a run of {bytes} bytes: this device moves rows of at least {min_bytes}; interleave on the host"
            ),
        )),
        _ => Ok(()),
    }
}

fn check_place(
    place: &SectionPlace,
    reach: Reach,
    regions: &[DeviceRegion],
    staging: usize,
) -> Result<(), String> {
    let region = regions
        .get(place.region as usize)
        .ok_or_else(|| format!("region {}, but {} are registered", place.region, regions.len()))?;
    if place.device.checked_add(reach.device).is_none_or(|end| end > region.len) {
        return Err(format!(
            "{} bytes from offset {} of region {}, which has {} bytes",
            reach.device, place.device, place.region, region.len
        ));
    }
    if place.staging.checked_add(reach.section).is_none_or(|end| end > staging as u64) {
        return Err(format!(
            "{} bytes from offset {} of a staging buffer of {staging} bytes",
            reach.section, place.staging
        ));
    }
    Ok(())
}

/// `None` on overflow.
fn reach(plan: &LayerPlan, kind: TensorKind) -> Option<Reach> {
    let nests: Vec<Reach> = plan.nests(kind).iter().map(nest_reach).collect::<Option<_>>()?;
    let mut all = Reach::default();
    for run in plan.runs(kind) {
        let nest = nests.get(run.nest as usize)?;
        all.device = all.device.max(run.device.checked_add(nest.device)?);
        all.section = all.section.max(run.section.checked_add(nest.section)?);
    }
    Some(all)
}

fn nest_reach(nest: &Nest) -> Option<Reach> {
    let mut reach = Reach { device: nest.run_bytes, section: nest.run_bytes };
    for dim in &nest.dims {
        let steps = u64::from(dim.count.saturating_sub(1));
        reach.device = reach.device.checked_add(dim.device_stride.checked_mul(steps)?)?;
        reach.section = reach.section.checked_add(dim.section_stride.checked_mul(steps)?)?;
    }
    Some(reach)
}
