//! Geometries and plans at the ends of ranges: refused with a reason, never an overflow or a giant allocation.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_format::*;

/// One layer and head in which K and V have this layout and these extents, in regions that could hold anything.
fn geometry(paging: PagingLayout, dim: u32, block_tokens: u32, regions: &[(u32, u64)]) -> Result<Geometry> {
    let (region, offset): (Vec<_>, Vec<_>) = regions.iter().copied().unzip();
    Geometry::new(AttentionParts {
        dtype: Dtype::F32,
        rope: RopePairing::RotateHalf,
        layers: 0..1,
        heads: 0..1,
        replica: Replica::ONLY,
        key_dim: dim,
        value_dim: dim,
        block_tokens,
        blocks: 1,
        key: paging,
        value: paging,
        tensors: region
            .into_iter()
            .zip(offset)
            .map(|(region, offset)| TensorBase { region, offset })
            .collect(),
        regions: vec![u64::MAX; 2],
    })
}

fn why(result: Result<impl std::fmt::Debug>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

const APART: [(u32, u64); 2] = [(0, 0), (1, 0)];

#[test]
fn a_stride_that_no_memory_has_is_refused_even_where_it_is_never_stepped() {
    let sane = PagingLayout::token_major(16, 1, 8);
    geometry(sane, 8, 16, &APART).unwrap();
    let (head, block) = (
        PagingLayout { head: Axis::strided(u64::MAX), ..sane },
        PagingLayout { block_stride: u64::MAX / 2, ..sane },
    );
    // K and V take turns in one region: their block stride is multiplied.
    let (together, apart) = ([(0, 0), (0, 64)], APART);
    for (what, layout, regions) in
        [("head", head, &apart), ("block", block, &apart), ("block", block, &together)]
    {
        let why = why(geometry(layout, 8, 16, regions));
        assert!(why.contains("stride") && why.contains("exceeds"), "{what}: {why}");
    }
    let longest = PagingLayout { head: Axis::strided(1 << 56), ..sane };
    LayerPlan::new(&geometry(longest, 8, 16, &APART).unwrap(), &[0], 0..16, 0..1).unwrap();
}

#[test]
fn a_tensor_longer_than_any_memory_is_refused() {
    let layout = PagingLayout { token: Axis::strided(1 << 40), ..PagingLayout::token_major(1, 1, 8) };
    geometry(layout, 8, 1 << 16, &APART).unwrap();
    assert!(why(geometry(layout, 8, (1 << 16) + 1, &APART)).contains("exceeds"));
}

#[test]
fn a_section_of_blocks_that_are_named_too_often_is_refused() {
    let tokens = 1 << 22;
    let geometry = geometry(PagingLayout::token_major(tokens, 1, 1 << 20), 1 << 20, tokens, &APART).unwrap();
    let longest = 64 * tokens;
    assert_eq!(
        LayerPlan::new(&geometry, &[0; 64], 0..longest, 0..1).unwrap().section_bytes(TensorKind::Key),
        1 << 50
    );
    let blocks = [0; 65];
    assert!(why(LayerPlan::new(&geometry, &blocks, 0..longest + 1, 0..1)).contains("exceeds"));
}

#[test]
fn tensors_that_interleave_in_millions_of_pieces_are_refused() {
    // Elements of K and V alternate.
    let layout = |dim: u32| PagingLayout {
        block_stride: 2 * u64::from(dim),
        token: Axis::strided(1),
        head: Axis::strided(1),
        dim: Axis::strided(2),
    };
    geometry(layout(1 << 20), 1 << 20, 1, &[(0, 0), (0, 4)]).unwrap();
    assert!(why(geometry(layout(1 << 31), 1 << 31, 1, &[(0, 0), (0, 4)])).contains("regions of their own"));
}

/// Each layer is within bounds: together they take as long as there are layers (found by the fuzz target `plan`).
#[test]
fn layers_that_each_interleave_in_a_million_pieces_are_refused_together() {
    let memory = |layers: u32| {
        EngineLayout::VllmLayerNhd.memory(&RankShape {
            group: 0,
            rule: GroupRule::FullAttention { key_dim: 16, value_dim: 8 },
            dtype: Dtype::Bf16,
            rope: RopePairing::RotateHalf,
            layers: (0..layers).into(),
            heads: 0..8,
            replica: Replica::ONLY,
            block_tokens: 1 << 16,
            blocks: 2,
            page_bytes: None,
        })
    };
    memory(2).unwrap();
    assert!(why(memory(3)).contains("regions of their own"));
}
