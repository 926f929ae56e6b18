//! KV groups of every rule, with scales of every form: objects, geometries, conversion and plans.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_format::convert::{SectionRange, Sequence, between, gather};
use kv_format::reference::{Engine, builder, filled, group_geometry, reference};
use kv_format::*;
use proptest::prelude::*;

const TOKENS: u32 = 70;
const CHUNK: u32 = 32;

fn scales(granularity: ScaleGranularity) -> Scales {
    Scales { granularity, direction: ScaleDirection::Multiply, dtype: Dtype::F32 }
}

/// One group of every rule, on layers that alternate where layers can.
fn every_rule() -> Vec<KvGroup> {
    let even: LayerSet = [0, 2, 4].into_iter().collect();
    let odd: LayerSet = [1, 3, 5].into_iter().collect();
    vec![
        KvGroup::new(GroupRule::FullAttention { key_dim: 8, value_dim: 4 }, even.clone(), 4),
        KvGroup::new(GroupRule::SlidingWindow { window: 64, key_dim: 4, value_dim: 4 }, odd.clone(), 2),
        KvGroup::new(GroupRule::MlaLatent { latent_dim: 12, rope_dim: 4 }, 6..8, 1),
        KvGroup::new(GroupRule::SparseIndex { dim: 6 }, 6..8, 1),
        KvGroup::new(GroupRule::RecurrentState { dim: 10 }, 8..10, 4),
    ]
}

/// A model of all the rules, with some dtypes and scales of their own.
fn hybrid() -> NamespaceBuilder {
    let mut model = builder(1, 1, 1).build().unwrap().model().clone();
    model.groups = every_rule();
    model.groups[1].dtype = Some(Dtype::E4m3Fnuz);
    model.groups[1].scales = Some(scales(ScaleGranularity::PerTokenHead));
    model.groups[4].dtype = Some(Dtype::F32);
    Namespace::builder(model).chunk_tokens(CHUNK)
}

/// An engine of any group with any scales, twice, and a range of its heads.
fn pair() -> impl Strategy<Value = (Engine, Engine, std::ops::Range<u32>)> {
    use ScaleGranularity::{PerHead, PerTensor, PerTokenHead};
    let forms = prop::sample::select(vec![None, Some(PerTensor), Some(PerHead), Some(PerTokenHead)]);
    let dtypes = prop::sample::select(vec![Dtype::Bf16, Dtype::Int8, Dtype::F32]);
    (prop::sample::select(every_rule()), forms, prop::sample::select(vec![Dtype::F32, Dtype::Bf16]), dtypes)
        .prop_flat_map(|(mut group, form, scale_dtype, dtype)| {
            let scaled = !matches!(group.rule, GroupRule::RecurrentState { .. });
            group.scales = form.filter(|_| scaled).map(|form| Scales { dtype: scale_dtype, ..scales(form) });
            group.dtype = Some(dtype);
            let heads = 0..group.kv_heads;
            let engine = || group_geometry(0, group.clone(), heads.clone(), CHUNK, TOKENS);
            (engine(), engine(), 0..group.kv_heads)
        })
        .prop_map(|(a, b, first)| {
            let heads = first..a.0.heads.end;
            (a, b, heads)
        })
}

fn sections(
    geometry: &Geometry,
    tokens: &std::ops::Range<u32>,
    heads: &std::ops::Range<u32>,
) -> Vec<SectionRange> {
    let of = |layer| geometry.kinds().map(move |kind| (layer, kind));
    let range = |(layer, kind)| SectionRange { layer, kind, tokens: tokens.clone(), heads: heads.clone() };
    geometry.layers.iter().flat_map(of).map(range).collect()
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    //= SPEC.md#invariant
    //= SPEC.md#section-shapes
    #[test]
    fn every_group_is_gathered_planned_and_scattered_alike((a, b, heads) in pair(), chunk in 0..3_u32) {
        let tokens = chunk * CHUNK..(chunk * CHUNK + CHUNK).min(TOKENS);
        let memory = filled(&a.0, &a.1, TOKENS);
        let engine = Sequence { geometry: &a.0, regions: &memory[..], blocks: &a.1 };
        let plan = LayerPlan::new(&a.0, &a.1, tokens.clone(), heads.clone()).unwrap();
        for range in sections(&a.0, &tokens, &heads) {
            let expected = reference(&a.0, &range);
            prop_assert_eq!(&gather(&engine, &range).unwrap(), &expected);
            let base = a.0.tensor(range.layer, range.kind).unwrap();
            let mut section = vec![0xEE; index(plan.section_bytes(range.kind))];
            plan.for_each_run(range.kind, |device, at, len| {
                let device = &memory[base.region as usize][index(base.offset + device)..][..index(len)];
                section[index(at)..][..index(len)].copy_from_slice(device);
            });
            prop_assert_eq!(&section, &expected);
        }
        let mut target: Vec<Vec<u8>> = b.0.regions.iter().map(|len| vec![0xEE; index(*len)]).collect();
        between(&engine, &mut Sequence { geometry: &b.0, regions: &mut target[..], blocks: &b.1 }, 0..TOKENS).unwrap();
        prop_assert_eq!(target, filled(&b.0, &b.1, TOKENS));
    }
}

/// The header of a slice of the second chunk.
fn header(namespace: &Namespace, slice: u32) -> ObjectHeader {
    let chunk = &chunks(namespace, &(0..TOKENS).collect::<Vec<_>>(), &[]).unwrap()[1];
    let identity = ObjectIdentity::new(namespace, chunk, slice).unwrap();
    let layout = ObjectLayout::new(namespace, &identity.slice, identity.token_count).unwrap();
    let checksums = (0..layout.sections.len() as u64).map(|i| i * 0x0123_4567_89ab).collect();
    ObjectHeader { identity, layout, checksums, producer: "test 1.0".into() }
}

fn encoded(header: &ObjectHeader) -> Vec<u8> {
    let mut bytes = vec![0xFF; index(header.layout.header_len)];
    header.encode(&mut bytes).unwrap();
    bytes
}

//= SPEC.md#slice-table-plan
//= SPEC.md#slice-layers
//= SPEC.md#section-order
//= SPEC.md#section-shapes
#[test]
fn every_group_has_slices_of_its_own_and_every_object_says_what_it_holds() {
    let namespace = hybrid().pipeline_stages(&[0, 3]).tensor_parallel(&[1, 2, 4]).build().unwrap();
    let table = namespace.slices();
    let mut cells = std::collections::BTreeMap::new();
    for (index, slice) in (0..).zip(table.slices()) {
        for layer in table.layers(slice) {
            slice.heads.clone().for_each(|head| *cells.entry((slice.group, layer, head)).or_insert(0) += 1);
        }
        let group = namespace.group(slice.group).unwrap();
        let elements = namespace.group_dtype(slice.group).unwrap();
        let header = header(&namespace, index);
        let found: Vec<_> =
            header.layout.sections.iter().map(|s| (s.layer, s.kind, s.dtype, s.shape)).collect();
        let expected: Vec<_> = table
            .layers(slice)
            .iter()
            .flat_map(|layer| {
                group.tensors().into_iter().map(move |(kind, dim)| {
                    let dtype = if kind.is_scale() { Dtype::F32 } else { elements };
                    let rows = if kind == TensorKind::State { 1 } else { CHUNK };
                    (layer, kind, dtype, [rows, 1, dim])
                })
            })
            .collect();
        assert_eq!(found, expected);
        assert!(found.is_sorted_by_key(|(layer, kind, ..)| (*layer, kind.code())));
        let bytes = encoded(&header);
        let read = ObjectHeader::decode(&bytes, header.layout.object_len).unwrap();
        assert_eq!(read, header);
        read.expect(&header.identity, &header.layout).unwrap();
    }
    assert!(cells.values().all(|times| *times == 1));
    assert_eq!(cells.len(), 3 * 4 + 3 * 2 + 2 + 2 + 2 * 4);
}

//= SPEC.md#namespace-complete
//= SPEC.md#group-text
//= SPEC.md#scales-text
#[test]
fn groups_dtypes_and_scales_have_canonical_texts() {
    let shown = |namespace: &Namespace, name: &str| {
        namespace.components().iter().find(|component| component.name == name).unwrap().shown.clone()
    };
    let namespace = hybrid().build().unwrap();
    assert_eq!(
        shown(&namespace, "groups"),
        "full-attention:layers=0-1,2-3,4-5:heads=4:key-dim=8:value-dim=4;\
         sliding-window:layers=1-2,3-4,5-6:heads=2:window=64:key-dim=4:value-dim=4;\
         mla-latent:layers=6-8:heads=1:latent-dim=12:rope-dim=4;\
         sparse-index:layers=6-8:heads=1:dim=6;\
         recurrent-state:layers=8-10:heads=4:dim=10"
    );
    assert_eq!(shown(&namespace, "stored-dtype"), "bf16;e4m3fnuz;bf16;bf16;f32");
    assert_eq!(shown(&namespace, "scales"), "none;per-token-head:multiply:f32;none;none;none");
    let mut model = namespace.model().clone();
    model.groups.truncate(2);
    model.groups[1].dtype = None;
    model.groups[1].scales = None;
    let same = Namespace::builder(model.clone()).build().unwrap();
    assert_eq!((shown(&same, "stored-dtype"), shown(&same, "scales")), ("bf16".into(), "none".into()));
    model.groups[0].scales = Some(Scales {
        granularity: ScaleGranularity::PerTensor,
        direction: ScaleDirection::Divide,
        dtype: Dtype::Bf16,
    });
    model.groups[1].scales = Some(scales(ScaleGranularity::PerHead));
    let scaled = Namespace::builder(model).build().unwrap();
    assert_eq!(shown(&scaled, "scales"), "per-tensor:divide:bf16;per-head:multiply:f32");
}

//= SPEC.md#group-apart
#[test]
fn groups_that_contradict_themselves_or_each_other_are_refused() {
    let build = |groups: Vec<KvGroup>| {
        let mut model = builder(1, 1, 1).build().unwrap().model().clone();
        model.groups = groups;
        Namespace::builder(model).build().map(drop).map_err(|error| error.kind())
    };
    let attention = GroupRule::FullAttention { key_dim: 8, value_dim: 8 };
    let (latent, state) =
        (GroupRule::MlaLatent { latent_dim: 4, rope_dim: 4 }, GroupRule::RecurrentState { dim: 4 });
    let group = |rule, layers: std::ops::Range<u32>, heads| KvGroup::new(rule, layers, heads);
    let huge = GroupRule::MlaLatent { latent_dim: u32::MAX, rope_dim: 1 };
    let scaled = |rule, dtype| KvGroup {
        scales: Some(Scales { dtype, ..scales(ScaleGranularity::PerTensor) }),
        ..group(rule, 0..2, 1)
    };
    let wrong = [
        ("no groups", vec![]),
        ("no layers", vec![group(attention, 2..2, 1)]),
        ("no heads", vec![group(attention, 0..2, 0)]),
        ("no window", vec![group(GroupRule::SlidingWindow { window: 0, key_dim: 1, value_dim: 1 }, 0..2, 1)]),
        ("a latent with heads", vec![group(latent, 0..2, 2)]),
        ("a latent too wide", vec![group(huge, 0..2, 1)]),
        ("a state with scales", vec![scaled(state, Dtype::F32)]),
        ("scales of 8 bits", vec![scaled(attention, Dtype::E4m3Fn)]),
        ("K of one layer twice", vec![group(attention, 0..2, 1), group(attention, 1..3, 1)]),
    ];
    for (what, groups) in wrong {
        assert_eq!(build(groups), Err(ErrorKind::Invalid), "{what}");
    }
    build(vec![group(attention, 0..2, 1), group(GroupRule::SparseIndex { dim: 4 }, 0..2, 1)]).unwrap();
}

//= SPEC.md#scale-codes
//= SPEC.md#kind-codes
#[test]
fn codes_are_those_of_the_specification() {
    use ScaleDirection::{Divide, Multiply};
    use ScaleGranularity::{PerHead, PerTensor, PerTokenHead};
    for (code, kind) in (1..=9).zip(TensorKind::ALL) {
        assert_eq!((TensorKind::from_code(code).unwrap(), kind.code()), (kind, code));
    }
    for (code, granularity) in (1..).zip([PerTensor, PerHead, PerTokenHead]) {
        assert_eq!((ScaleGranularity::from_code(code).unwrap(), granularity.code()), (granularity, code));
    }
    for (code, direction) in (1..).zip([Multiply, Divide]) {
        assert_eq!((ScaleDirection::from_code(code).unwrap(), direction.code()), (direction, code));
    }
    let unknown = [
        TensorKind::from_code(0).unwrap_err(),
        TensorKind::from_code(10).unwrap_err(),
        ScaleGranularity::from_code(4).unwrap_err(),
        ScaleDirection::from_code(3).unwrap_err(),
    ];
    assert!(unknown.iter().all(|error| error.kind() == ErrorKind::Incompatible));
    // Slice 4 is head 0 of the sliding window: fp8 with f32 scales per token and head.
    let namespace = hybrid().build().unwrap();
    let bytes = encoded(&header(&namespace, 4));
    let u16_at = |at: usize| u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap());
    assert_eq!((u16_at(186), u16_at(188)), (3, 1));
    assert_eq!([0, 1, 2, 3].map(|entry| u16_at(320 + 48 * entry + 4)), [1, 2, 6, 7]);
    assert_eq!([0, 1, 2, 3].map(|entry| u16_at(320 + 48 * entry + 6)), [6, 6, 3, 3]);
}

//= SPEC.md#read-canonical
//= SPEC.md#read-identity
#[test]
fn a_table_that_no_writer_writes_is_refused() {
    let namespace = hybrid().build().unwrap();
    let header = header(&namespace, 4);
    let kind_of = |change: &dyn Fn(&mut ObjectHeader)| {
        let mut forged = header.clone();
        change(&mut forged);
        let bytes = encoded(&forged);
        ObjectHeader::decode(&bytes, forged.layout.object_len).map(drop).map_err(|error| error.kind())
    };
    kind_of(&|_| ()).unwrap();
    let section = |number: usize, change: fn(&mut Section)| {
        kind_of(&move |header| change(&mut header.layout.sections[number]))
    };
    let refused = [
        ("a kind twice", section(1, |s| s.kind = TensorKind::Key)),
        ("kinds out of order", kind_of(&|h| h.layout.sections.swap(0, 1))),
        ("a later layer with another kind", section(4, |s| s.kind = TensorKind::Latent)),
        ("a layer twice", section(4, |s| s.layer = 1)),
        ("a layer of no slice", section(0, |s| s.layer = 9)),
        ("a layer that is torn", section(7, |s| s.layer = 5)),
        ("a scale for a tensor", section(2, |s| s.shape = [1, 1, 1])),
        ("another dtype in one layer", section(5, |s| s.dtype = Dtype::Int8)),
        ("another dtype of the scales", section(3, |s| s.dtype = Dtype::Bf16)),
        ("no scales announced", kind_of(&|h| h.identity.scales = None)),
        ("the slice goes on", kind_of(&|h| h.identity.slice.layers.end = 7)),
        ("the slice begins earlier", kind_of(&|h| h.identity.slice.layers.start = 0)),
    ];
    for (what, result) in refused {
        assert_eq!(result, Err(ErrorKind::Corrupt), "{what}");
    }
    // All scales as fp8, which no version writes, in an object that is otherwise whole.
    let narrow = kind_of(&|header| {
        for scale in header.layout.sections.iter_mut().filter(|section| section.kind.is_scale()) {
            (scale.dtype, scale.len) = (Dtype::Int8, scale.len / 4);
        }
        let mut next = header.layout.header_len;
        for section in &mut header.layout.sections {
            section.offset = next;
            next = (section.offset + section.len).next_multiple_of(64);
            header.layout.object_len = section.offset + section.len;
        }
    });
    assert_eq!(narrow, Err(ErrorKind::Corrupt));
    let wanted = ObjectIdentity {
        scales: Some(Scales { direction: ScaleDirection::Divide, ..header.identity.scales.unwrap() }),
        ..header.identity.clone()
    };
    assert_eq!(header.expect(&wanted, &header.layout).unwrap_err().kind(), ErrorKind::Incompatible);
}

/// A geometry of one group whose tensors lie one behind the other in region 0.
fn packed(group: u32, definition: &KvGroup, first: u64) -> GeometryParts {
    let mut next = first;
    let heads = definition.kv_heads;
    let form = definition.scales.map(|scales| scales.granularity);
    let tensors = definition.tensors().into_iter().map(|(kind, dim)| {
        let rows =
            if kind == TensorKind::State || kind.is_scale() && form != Some(ScaleGranularity::PerTokenHead) {
                1
            } else {
                16
            };
        let paging = PagingLayout::token_major(rows, heads, dim);
        let place = |_| {
            let offset = next;
            next += paging.block_stride * 4 * 4;
            TensorBase { region: 0, offset }
        };
        TensorGeometry { kind, dim, paging, bases: definition.layers.iter().map(place).collect() }
    });
    GeometryParts {
        group,
        dtype: Dtype::F32,
        rope: RopePairing::RotateHalf,
        layers: definition.layers.clone(),
        heads: 0..heads,
        replica: Replica::ONLY,
        block_tokens: 16,
        blocks: 4,
        scales: definition.scales,
        tensors: tensors.collect(),
        regions: vec![1 << 20, 64],
    }
}

#[test]
fn geometries_that_are_no_group_or_share_bytes_are_refused() {
    let attention = KvGroup::full_attention(2, 2, 8);
    let scaled = KvGroup { scales: Some(scales(ScaleGranularity::PerTensor)), ..attention.clone() };
    let right = packed(0, &scaled, 0);
    Geometry::new(right.clone()).unwrap();
    let change = |change: &dyn Fn(&mut GeometryParts)| {
        let mut parts = right.clone();
        change(&mut parts);
        Geometry::new(parts).map(drop).map_err(|error| error.kind())
    };
    let wrong = [
        ("a kind is missing", change(&|p| drop(p.tensors.remove(1)))),
        ("kinds out of order", change(&|p| p.tensors.swap(0, 1))),
        ("scales that nobody announced", change(&|p| p.scales = None)),
        ("scales of 8 bits", change(&|p| p.scales.as_mut().unwrap().dtype = Dtype::Int8)),
        ("scales with elements", change(&|p| p.tensors[2].dim = 2)),
        ("a base is missing", change(&|p| p.tensors[3].bases.truncate(1))),
        ("a scale in the keys", change(&|p| p.tensors[2].bases[0].offset = 64)),
        ("no such region", change(&|p| p.tensors[2].bases[0].region = 2)),
        (
            "a scale outside its region",
            change(&|p| p.tensors[2].bases[0] = TensorBase { region: 1, offset: 62 }),
        ),
    ];
    for (what, result) in wrong {
        assert_eq!(result, Err(ErrorKind::Invalid), "{what}");
    }
    // One scale fits behind all else, in the last bytes of a region.
    change(&|p| p.tensors[2].bases[0] = TensorBase { region: 1, offset: 60 }).unwrap();

    let index = KvGroup::new(GroupRule::SparseIndex { dim: 8 }, 0..2, 1);
    let first = Geometry::new(right.clone()).unwrap();
    let behind = Geometry::new(packed(1, &index, 1 << 19)).unwrap();
    Geometry::check_together(&[first.clone(), behind.clone()]).unwrap();
    let over = Geometry::new(packed(1, &index, 64)).unwrap();
    let again = Geometry::new(packed(0, &index, 1 << 19)).unwrap();
    let elsewhere = Geometry::new(GeometryParts { regions: vec![1 << 20], ..(*behind).clone() }).unwrap();
    for (what, other) in [("shared bytes", over), ("one group twice", again), ("other regions", elsewhere)] {
        let error = Geometry::check_together(&[first.clone(), other]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}");
    }
}

//= SPEC.md#group-missing
#[test]
fn a_rank_holds_every_group_of_its_stages_or_is_refused() {
    let namespace = hybrid().pipeline_stages(&[0, 6]).build().unwrap();
    let groups = namespace.model().groups.clone();
    let table = namespace.slices();
    let geometry = |index: u32, layers: std::ops::Range<u32>| {
        let group = &groups[index as usize];
        let own = KvGroup { layers: group.layers.within(layers), ..group.clone() };
        Geometry::new(packed(index, &own, u64::from(index) << 17)).unwrap()
    };
    let whole: Vec<_> = (0..5).map(|group| geometry(group, 0..10)).collect();
    let held = table.held_by_rank(&whole).unwrap();
    assert_eq!(held.len(), table.slices().len());
    let first_stage = [geometry(0, 0..6), geometry(1, 0..6)];
    assert_eq!(table.held_by_rank(&first_stage).unwrap().len(), 6);
    let second_stage: Vec<_> = (2..5).map(|group| geometry(group, 6..10)).collect();
    assert_eq!(table.held_by_rank(&second_stage).unwrap().len(), 6);
    for missing in 0..5 {
        let mut others = whole.clone();
        others.remove(missing);
        assert_eq!(
            table.held_by_rank(&others).unwrap_err().kind(),
            ErrorKind::Incompatible,
            "group {missing}"
        );
    }
    let torn = [geometry(0, 0..6), geometry(1, 0..4)];
    assert_eq!(table.held_by_rank(&torn).unwrap_err().kind(), ErrorKind::Incompatible);
    let twice = [geometry(0, 0..6), geometry(1, 0..6), geometry(0, 0..6)];
    assert_eq!(table.held_by_rank(&twice).unwrap_err().kind(), ErrorKind::Invalid);
    let unknown = Geometry::new(packed(9, &groups[0], 0)).unwrap();
    let more = [first_stage.as_slice(), &[unknown]].concat();
    assert_eq!(table.held_by_rank(&more).unwrap_err().kind(), ErrorKind::Incompatible);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    //= SPEC.md#read-bounds
    #[test]
    fn a_hostile_header_of_any_group_never_panics(
        slice in 0..12_u32,
        changes in prop::collection::vec((prop_oneof![144..192_usize, 320..1100_usize], any::<u8>()), 1..6),
        object_len in any::<u64>(),
    ) {
        let header = header(&hybrid().build().unwrap(), slice);
        let mut bytes = encoded(&header);
        changes.iter().for_each(|(at, value)| bytes[*at] = *value);
        bytes[288..296].fill(0);
        let checksum = Checksum::of(&bytes);
        bytes[288..296].copy_from_slice(&checksum.to_le_bytes());
        for len in [object_len, header.layout.object_len] {
            let _ = ObjectHeader::decode(&bytes, len);
        }
    }
}
