//! Any geometry and any request to plan it: refused, or no two elements at one place, every run inside its region and each byte of a
//! section covered once.

use super::geometries;
use super::numbers::Numbers;
use kv_format::convert::{SectionRange, Sequence, gather};
use kv_format::*;

/// Runs that are walked, and bytes of regions that are filled, at most: the rest is arithmetic.
const MOST_RUNS: u64 = 1 << 16;
const MOST_BYTES: u64 = 1 << 16;

/// Elements of a tensor that are told apart one by one, at most.
const MOST_ELEMENTS: u64 = 1 << 11;

/// Whether a plan was made and compared with the naive loop. The first byte says of what.
pub fn check(input: &[u8]) -> bool {
    let numbers = &mut Numbers(input);
    match numbers.byte() % 4 {
        0 => geometries::attention(numbers).is_ok_and(|geometry| planned(&geometry, numbers)),
        1 => geometries::named(numbers).is_ok_and(|geometry| {
            apart(&[&geometry]);
            planned(&geometry, numbers)
        }),
        _ => groups(numbers),
    }
}

/// Up to three KV groups of a rank, in the same regions.
fn groups(numbers: &mut Numbers<'_>) -> bool {
    let regions: Vec<u64> = (0..numbers.byte() % 5).map(|_| numbers.u64()).collect();
    let Ok(first) = geometries::group(numbers, &regions) else { return false };
    apart(&[&first]);
    let mut all = vec![first];
    for _ in 0..numbers.byte() % 3 {
        all.extend(geometries::group(numbers, &regions));
    }
    if Geometry::check_together(&all).is_ok() {
        apart(&all.iter().collect::<Vec<_>>());
        let ids: std::collections::BTreeSet<u32> = all.iter().map(|geometry| geometry.group).collect();
        assert_eq!(ids.len(), all.len(), "one KV group twice");
    }
    let compared: Vec<bool> = all.iter().map(|geometry| planned(geometry, numbers)).collect();
    compared.contains(&true)
}

/// No two elements of these geometries, which were accepted, share a byte, and none is outside of its region: one by one, where there
/// are few.
fn apart(geometries: &[&Geometry]) {
    let regions = geometries.first().map_or(&[][..], |first| &first.regions[..]);
    if regions.iter().fold(0_u64, |sum, len| sum.saturating_add(*len)) > MOST_BYTES {
        return;
    }
    let index = |offset: u64| usize::try_from(offset).expect("regions are small here");
    let mut taken: Vec<Vec<bool>> = regions.iter().map(|len| vec![false; index(*len)]).collect();
    for geometry in geometries {
        for tensor in &geometry.tensors {
            let per_tensor = tensor.kind.is_scale()
                && geometry.scales.is_some_and(|it| it.granularity == ScaleGranularity::PerTensor);
            let heads = if per_tensor { 1 } else { geometry.head_count() };
            let (blocks, rows) = match tensor.kind {
                kind if geometry.is_static(kind) => (1, 1),
                TensorKind::State => (geometry.blocks, 1),
                _ => (geometry.blocks, geometry.block_tokens),
            };
            let extents = [blocks, rows, heads, tensor.dim];
            let elements = extents.iter().fold(tensor.bases.len() as u64, |product, extent| {
                product.saturating_mul(u64::from(*extent))
            });
            if elements > MOST_ELEMENTS {
                return;
            }
            let bytes = u64::from(geometry.dtype_of(tensor.kind).bytes());
            for base in &tensor.bases {
                for number in 0..elements / tensor.bases.len() as u64 {
                    let mut rest = number;
                    let [dim, head, row, block] = [tensor.dim, heads, rows, blocks].map(|extent| {
                        let index = rest % u64::from(extent);
                        rest /= u64::from(extent);
                        u32::try_from(index).expect("below an extent")
                    });
                    let start = base.offset + tensor.paging.offset(block, row, head, dim) * bytes;
                    let place = taken[base.region as usize].get_mut(index(start)..index(start + bytes));
                    let place = place.expect("an element is inside of its region");
                    assert!(!place.contains(&true), "two elements share a byte");
                    place.fill(true);
                }
            }
        }
    }
}

/// Plans any blocks, tokens and heads; whether what was planned was compared with the naive loop.
fn planned(geometry: &Geometry, numbers: &mut Numbers<'_>) -> bool {
    let blocks: Vec<u32> = (0..numbers.byte() % 17).map(|_| numbers.u32()).collect();
    let tokens = numbers.u32()..numbers.u32();
    let heads = match numbers.byte() % 2 {
        0 => geometry.heads.clone(),
        _ => numbers.u32()..numbers.u32(),
    };
    let Ok(plan) = LayerPlan::new(geometry, &blocks, tokens.clone(), heads.clone()) else { return false };
    let mut compared = false;
    assert!(plan.kinds().eq(geometry.kinds()));
    for kind in geometry.kinds() {
        let run_bytes = |run: &StridedRun| {
            let nest = &plan.nests(kind)[run.nest as usize];
            nest.dims.iter().fold(1_u64, |runs, dim| runs.saturating_mul(u64::from(dim.count)))
        };
        let runs = plan.runs(kind).iter().fold(0_u64, |sum, run| sum.saturating_add(run_bytes(run)));
        if runs > MOST_RUNS {
            continue;
        }
        let section_bytes = plan.section_bytes(kind);
        let mut places = Vec::new();
        plan.for_each_run(kind, |device, section, bytes| places.push((section, device, bytes)));
        places.sort_unstable();
        let mut next = 0;
        for (section, device, bytes) in &places {
            assert_eq!(*section, next, "bytes of the section are missing or come twice");
            next += bytes;
            for layer in geometry.layers.iter() {
                let tensor = geometry.tensor(layer, kind).expect("a layer of the geometry");
                let end = tensor.offset.checked_add(*device).and_then(|start| start.checked_add(*bytes));
                let len = geometry.regions[tensor.region as usize];
                assert!(end.is_some_and(|end| end <= len), "a run ends at {end:?} of a region of {len}");
            }
        }
        assert_eq!(next, section_bytes, "the runs do not fill the section");
        let total = geometry.regions.iter().fold(0_u64, |sum, len| sum.saturating_add(*len));
        if total <= MOST_BYTES && section_bytes <= MOST_BYTES {
            as_the_oracle(geometry, &blocks, &tokens, &heads, kind, &places);
            compared = true;
        }
    }
    compared
}

/// The plan takes the bytes that the naive loop takes.
fn as_the_oracle(
    geometry: &Geometry,
    blocks: &[u32],
    tokens: &std::ops::Range<u32>,
    heads: &std::ops::Range<u32>,
    kind: TensorKind,
    places: &[(u64, u64, u64)],
) {
    let index = |offset: u64| usize::try_from(offset).expect("regions are small here");
    let regions: Vec<Vec<u8>> = geometry
        .regions
        .iter()
        .map(|len| (0..index(*len)).map(|at| (at % 251).to_le_bytes()[0]).collect())
        .collect();
    let layer = geometry.layers.bounds().start;
    let sequence = Sequence { geometry, regions: regions.as_slice(), blocks };
    let range = SectionRange { layer, kind, tokens: tokens.clone(), heads: heads.clone() };
    let expected = gather(&sequence, &range).expect("what can be planned can be copied");
    let tensor = geometry.tensor(layer, kind).expect("a layer of the geometry");
    let region = &regions[tensor.region as usize];
    let found: Vec<u8> = places
        .iter()
        .flat_map(|(_, device, bytes)| &region[index(tensor.offset + device)..][..index(*bytes)])
        .copied()
        .collect();
    assert!(found == expected, "plan and naive loop differ");
}
