//! Namespaces, slices and keys: what enters an identity, and what does not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_format::reference::{builder, namespace};
use kv_format::*;

const SCALES: Scales = Scales {
    granularity: ScaleGranularity::PerTokenHead,
    direction: ScaleDirection::Multiply,
    dtype: Dtype::F32,
};

fn model() -> ModelIdentity {
    namespace(4, 2, 8, 16).model().clone()
}

//= SPEC.md#namespace-complete
#[test]
fn every_component_changes_the_digest_and_explain_names_it() {
    let base = Namespace::builder(model()).build().unwrap();
    let rebuilt = |change: fn(&mut ModelIdentity)| {
        let mut model = model();
        change(&mut model);
        Namespace::builder(model).build().unwrap()
    };
    let build = |builder: NamespaceBuilder| builder.build().unwrap();
    let others = [
        ("model", rebuilt(|m| m.name.push('x'))),
        ("weights", rebuilt(|m| m.weights.0[31] ^= 1)),
        ("adapters", rebuilt(|m| m.adapters.push(InputDigest([1; 32])))),
        ("weight-quantisation", rebuilt(|m| m.weight_quantisation = "q4_1".into())),
        ("rope-pairing", rebuilt(|m| m.rope_pairing = RopePairing::Interleaved)),
        ("rope-theta", rebuilt(|m| m.rope_theta += 1.0)),
        ("rope-scaling", rebuilt(|m| m.rope_scaling = "yarn:4".into())),
        ("groups", rebuilt(|m| m.groups[0].rule = GroupRule::FullAttention { key_dim: 8, value_dim: 16 })),
        ("scales", rebuilt(|m| m.groups[0].scales = Some(SCALES))),
        ("stored-dtype", build(Namespace::builder(model()).dtype(Dtype::F16))),
        ("chunk-tokens", build(Namespace::builder(model()).chunk_tokens(128))),
        ("slices", build(Namespace::builder(model()).pipeline_stages(&[0, 2]))),
        ("tenant", build(Namespace::builder(model()).tenant("acme"))),
    ];
    for (component, other) in &others {
        assert_ne!(base.digest(), other.digest(), "{component}");
        let differences = base.differences(other);
        let names: Vec<_> = differences.iter().map(|d| d.component.as_str()).collect();
        assert_eq!(names, [*component]);
    }
    let names: Vec<_> = base.components().iter().map(|c| c.name.as_str()).collect();
    let changed: Vec<_> = others.iter().map(|(name, _)| *name).collect();
    let left: Vec<_> = names.iter().filter(|name| !changed.contains(name)).collect();
    assert_eq!(left, [&"format"], "components that no test changes");
    assert!(base.differences(&base).is_empty());
}

//= SPEC.md#namespace-digest
//= SPEC.md#chunk-key
//= SPEC.md#object-name
#[test]
fn digests_are_what_the_specification_says() {
    let namespace = namespace(4, 2, 8, 16);
    let mut encoding = Vec::new();
    let weights = "03".repeat(32);
    let components: [(&str, &[u8]); 14] = [
        ("format", b"1"),
        ("model", b"test"),
        ("weights", weights.as_bytes()),
        ("adapters", b""),
        ("weight-quantisation", b"none"),
        ("rope-pairing", b"rotate-half"),
        ("rope-theta", &10_000_f64.to_le_bytes()),
        ("rope-scaling", b"none"),
        ("groups", b"full-attention:layers=0-4:heads=2:key-dim=8:value-dim=8"),
        ("stored-dtype", b"bf16"),
        ("scales", b"none"),
        ("chunk-tokens", b"16"),
        ("slices", b"0:0-4:0-1;0:0-4:1-2"),
        ("tenant", b""),
    ];
    for (name, value) in components {
        encoding.extend((name.len() as u64).to_le_bytes());
        encoding.extend(name.as_bytes());
        encoding.extend((value.len() as u64).to_le_bytes());
        encoding.extend(value);
    }
    let digest = blake3::derive_key("kvbridge 2026-11 namespace v1", &encoding);
    assert_eq!(namespace.digest().0, digest);

    let tokens: Vec<u32> = (1000..1020).collect();
    let extra = Extra { position: 17, digest: InputDigest([9; 32]) };
    let chunks = chunks(&namespace, &tokens, &[extra]).unwrap();
    let key = |parent: Option<[u8; 32]>, index: u32, tokens: &[u32], extras: &[Extra]| {
        let mut encoding = digest.to_vec();
        encoding.push(u8::from(parent.is_some()));
        encoding.extend(parent.unwrap_or_default());
        encoding.extend(index.to_le_bytes());
        encoding.extend((tokens.len() as u64).to_le_bytes());
        encoding.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        encoding.extend((extras.len() as u64).to_le_bytes());
        for extra in extras {
            encoding.extend(extra.position.to_le_bytes());
            encoding.extend(extra.digest.0);
        }
        blake3::derive_key("kvbridge 2026-11 chunk key v1", &encoding)
    };
    let first = key(None, 0, &tokens[..16], &[]);
    assert_eq!(chunks[0].key.0, first);
    assert_eq!(chunks[1].key.0, key(Some(first), 1, &tokens[16..], &[extra]));

    // Golden: these bytes never change within format version 1.
    assert_eq!(
        namespace.digest().to_string(),
        "c6a1722682a832e1ab6522258fa933c3101abefb7ced7f251fc191084e5ff393"
    );
    assert_eq!(chunks[1].key.to_string(), "cb7d7a6fed37fd32850916d198b77394cbfe91562f80dead330cd5ae6104c0fb");
    let name = ObjectName { namespace: namespace.digest(), key: chunks[1].key, chunk_index: 1, slice: 0 };
    assert_eq!(
        name.to_string(),
        "v1/c6a1722682a832e1ab6522258fa933c3101abefb7ced7f251fc191084e5ff393/cb/cb7d7a6fed37fd32850916d198b77394cbfe91562f80dead330cd5ae6104c0fb.1.0"
    );
}

//= SPEC.md#chunk-size
//= SPEC.md#key-parent
//= SPEC.md#tail
#[test]
fn a_sequence_is_cut_into_a_chain_with_at_most_one_tail() {
    let namespace = namespace(1, 1, 8, 16);
    let tokens: Vec<u32> = (0..40).collect();
    let all = chunks(&namespace, &tokens, &[]).unwrap();
    assert_eq!(
        all.iter().map(|c| (c.tokens.clone(), c.tail)).collect::<Vec<_>>(),
        [(0..16, false), (16..32, false), (32..40, true)]
    );
    assert_eq!(all[0].parent, None);
    assert!(all.windows(2).all(|pair| pair[1].parent == Some(pair[0].key)));
    assert!(chunks(&namespace, &tokens[..32], &[]).unwrap().iter().all(|chunk| !chunk.tail));
    assert!(chunks(&namespace, &[], &[]).unwrap().is_empty());
    // The whole prefix is in the key, and a prefix of the sequence has the same keys.
    assert_eq!(chunks(&namespace, &tokens[..32], &[]).unwrap(), all[..2]);
    let mut changed = tokens.clone();
    changed[0] = 99;
    let other = chunks(&namespace, &changed, &[]).unwrap();
    assert!(all.iter().zip(&other).all(|(a, b)| a.key != b.key));
    for size in [0, 8, 250] {
        assert!(builder(1, 1, 8).chunk_tokens(size).build().is_err(), "chunks of {size} tokens");
    }
}

//= SPEC.md#key-extras
#[test]
fn an_image_changes_the_key_of_its_chunk_and_of_all_behind() {
    let namespace = namespace(1, 1, 8, 16);
    let tokens = [5; 48];
    let extra = |position| Extra { position, digest: InputDigest([1; 32]) };
    let plain = chunks(&namespace, &tokens, &[]).unwrap();
    let image = chunks(&namespace, &tokens, &[extra(20)]).unwrap();
    let same: Vec<_> = plain.iter().zip(&image).map(|(a, b)| a.key == b.key).collect();
    assert_eq!(same, [true, false, false]);
    assert!(chunks(&namespace, &tokens, &[extra(20), extra(19)]).is_err());
    assert!(chunks(&namespace, &tokens, &[extra(48)]).is_err());
}

//= SPEC.md#replica-writer
#[test]
fn replicas_write_in_turns() {
    for count in 1..5 {
        for chunk in 0..20 {
            let writers =
                (0..count).filter(|index| Replica { index: *index, count }.writes(chunk)).collect::<Vec<_>>();
            assert_eq!(writers, [chunk % count]);
        }
    }
}

//= SPEC.md#slice-table-plan
#[test]
fn slices_cover_the_model_once_and_no_planned_rank_cuts_one() {
    for (heads, degrees) in
        [(8, vec![1, 2, 4, 8, 16]), (3, vec![1, 3, 9]), (40, vec![1, 2, 4, 8]), (64, vec![16, 32])]
    {
        let namespace =
            builder(6, heads, 8).tensor_parallel(&degrees).pipeline_stages(&[0, 2]).build().unwrap();
        let mut covered = vec![0; (6 * heads) as usize];
        for slice in namespace.slices().slices() {
            for layer in slice.layers.clone() {
                slice.heads.clone().for_each(|head| covered[(layer * heads + head) as usize] += 1);
            }
        }
        assert!(covered.iter().all(|times| *times == 1), "{heads} heads");
        for degree in degrees {
            let per_rank = (heads / degree).max(1);
            for (rank, layers) in (0..degree).flat_map(|rank| [(rank, 0..2), (rank, 2..6), (rank, 0..6)]) {
                let first = if degree > heads { rank * heads / degree } else { rank * per_rank };
                let geometry = rank_geometry(layers.clone(), first..first + per_rank);
                let held = namespace.slices().held_by(&geometry).unwrap();
                let cells: usize = held.iter().map(|(_, slice)| slice.layers.len() * slice.heads.len()).sum();
                assert_eq!(cells, layers.len() * per_rank as usize, "TP {degree}, rank {rank}");
            }
        }
        let cut = rank_geometry(1..6, 0..1);
        assert_eq!(namespace.slices().held_by(&cut).unwrap_err().kind(), ErrorKind::Incompatible);
    }
}

fn rank_geometry(layers: std::ops::Range<u32>, heads: std::ops::Range<u32>) -> Geometry {
    let count = u32::try_from(heads.len()).unwrap();
    let layout = PagingLayout::token_major(16, count, 8);
    let tensors = 2 * u32::try_from(layers.len()).unwrap();
    Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers,
        heads,
        replica: Replica::ONLY,
        key_dim: 8,
        value_dim: 8,
        block_tokens: 16,
        blocks: 1,
        key: layout,
        value: layout,
        tensors: (0..tensors).map(|region| TensorBase { region, offset: 0 }).collect(),
        regions: vec![layout.block_stride * 2; tensors as usize],
    })
    .unwrap()
}
