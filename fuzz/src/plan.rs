//! Any geometry and any request to plan it: refused, or every run inside its region and each byte of a section covered once.

use super::numbers::Numbers;
use kv_format::convert::{SectionRange, Sequence, gather};
use kv_format::*;

/// Runs that are walked, and bytes of regions that are filled, at most: the rest is arithmetic.
const MOST_RUNS: u64 = 1 << 16;
const MOST_BYTES: u64 = 1 << 16;

fn axis(numbers: &mut Numbers<'_>) -> Axis {
    let stride = numbers.u64();
    match numbers.byte() % 3 {
        0 => Axis::split(numbers.u32(), numbers.u64(), stride),
        _ => Axis::strided(stride),
    }
}

/// Free strides, or one of the engines' layouts.
fn paging(numbers: &mut Numbers<'_>, tokens: u32, heads: u32, dim: u32) -> PagingLayout {
    // The constructors' products are the caller's to keep within u64.
    let (tokens, heads, dim) = (tokens.min(1 << 20), heads.min(1 << 20), dim.min(1 << 20));
    let mut layout = match numbers.byte() % 8 {
        0 => PagingLayout::token_major(tokens, heads, dim),
        1 => PagingLayout::head_major(tokens, heads, dim),
        2 => PagingLayout::x_packed(tokens, heads, dim, 1 << (numbers.byte() % 5)),
        3 => PagingLayout::transposed(tokens, heads, dim),
        _ => {
            let block_stride = numbers.u64();
            let (token, head, dim) = (axis(numbers), axis(numbers), axis(numbers));
            PagingLayout { block_stride, token, head, dim }
        }
    };
    if numbers.byte() % 4 == 1 {
        layout.block_stride = numbers.u64();
    }
    layout
}

fn geometry(numbers: &mut Numbers<'_>) -> Result<Geometry> {
    let layers = numbers.u32()..numbers.u32();
    let heads = numbers.u32()..numbers.u32();
    let (key_dim, value_dim, block_tokens, blocks) =
        (numbers.u32(), numbers.u32(), numbers.u32(), numbers.u32());
    let count = heads.end.saturating_sub(heads.start);
    let key = paging(numbers, block_tokens, count, key_dim);
    let value = paging(numbers, block_tokens, count, value_dim);
    let regions: Vec<u64> = (0..numbers.byte() % 5).map(|_| numbers.u64()).collect();
    let one_each = numbers.byte().is_multiple_of(2);
    let wanted = 2 * u32::try_from(layers.len().min(8)).unwrap_or_default() + u32::from(numbers.byte() == 1);
    let tensors = (0..wanted).map(|index| {
        let region = if one_each { index } else { u32::from(numbers.byte() % 5) };
        TensorBase { region, offset: numbers.u64() }
    });
    Geometry::new(AttentionParts {
        tensors: tensors.collect(),
        dtype: Dtype::ALL[usize::from(numbers.byte()) % Dtype::ALL.len()],
        rope: RopePairing::RotateHalf,
        layers,
        heads,
        replica: Replica { index: numbers.u32(), count: numbers.u32().max(1) },
        key_dim,
        value_dim,
        block_tokens,
        blocks,
        key,
        value,
        regions,
    })
}

/// Whether a plan was made and compared with the naive loop.
pub fn check(input: &[u8]) -> bool {
    let numbers = &mut Numbers(input);
    let Ok(geometry) = geometry(numbers) else { return false };
    let blocks: Vec<u32> = (0..numbers.byte() % 17).map(|_| numbers.u32()).collect();
    let tokens = numbers.u32()..numbers.u32();
    let heads = match numbers.byte() % 2 {
        0 => geometry.heads.clone(),
        _ => numbers.u32()..numbers.u32(),
    };
    let Ok(plan) = LayerPlan::new(&geometry, &blocks, tokens.clone(), heads.clone()) else { return false };
    let mut compared = false;
    for kind in TensorKind::BOTH {
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
            as_the_oracle(&geometry, &blocks, &tokens, &heads, kind, &places);
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
