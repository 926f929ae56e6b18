//! Named layouts against index vectors that numpy made from the engines' own expressions (`golden/layouts.py`): every element of
//! every tensor, not a formula of ours against another.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use kv_format::*;

/// The vectors of one case.
#[derive(Debug, Default)]
struct Case {
    name: String,
    /// Extents by their names in the file.
    extents: BTreeMap<String, String>,
    /// First and last id of the blocks that the vectors cover.
    ids: (u32, u32),
    /// Elements of each allocation.
    regions: Vec<u64>,
    tensors: Vec<Tensor>,
}

/// The vectors of one tensor.
#[derive(Debug)]
struct Tensor {
    layer: u32,
    kind: String,
    region: u32,
    /// For each block its indices, `[token][head][dim]`.
    blocks: Vec<(u32, Vec<u64>)>,
}

impl Case {
    fn extent(&self, name: &str) -> u32 {
        self.extents[name].parse().unwrap()
    }

    /// Whether these are of latents, which have no heads.
    fn is_latent(&self) -> bool {
        self.extents.contains_key("latent-dim")
    }

    /// Whether its extents tell heads and tokens apart, without which some layouts are truly the same.
    fn tells_layouts_apart(&self) -> bool {
        self.is_latent() || self.extent("heads") > 1 && self.extent("block-tokens") > 1
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/layouts")
}

/// Every case of a folder by the name of its layout.
fn vectors(folder: PathBuf) -> BTreeMap<String, Vec<Case>> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files
        .filter(|entry| !entry.file_type().unwrap().is_dir())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            let layout = name.strip_suffix(".txt").expect("only vectors stand in this folder");
            (layout.to_owned(), cases(&std::fs::read_to_string(entry.path()).unwrap()))
        })
        .collect()
}

/// Reads the format that `golden/layouts.py` describes.
fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap();
        if word == "case" {
            cases.push(Case { name: rest.to_owned(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().unwrap();
        match word {
            "ids" => {
                let (first, last) = rest.split_once(' ').unwrap();
                case.ids = (first.parse().unwrap(), last.parse().unwrap());
            }
            "region" => {
                let (index, elements) = rest.split_once(' ').unwrap();
                assert_eq!(index.parse(), Ok(case.regions.len()));
                case.regions.push(elements.parse().unwrap());
            }
            "tensor" => {
                let [layer, kind, region] = rest.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
                case.tensors.push(Tensor {
                    layer: layer.parse().unwrap(),
                    kind: kind.to_owned(),
                    region: region.parse().unwrap(),
                    blocks: Vec::new(),
                });
            }
            _ => match word.parse() {
                Ok(id) => case.tensors.last_mut().unwrap().blocks.push((id, indices(rest))),
                Err(_) => assert!(case.extents.insert(word.to_owned(), rest.to_owned()).is_none(), "{line}"),
            },
        }
    }
    cases
}

/// `FIRST DELTA*COUNT ...`.
fn indices(runs: &str) -> Vec<u64> {
    let mut words = runs.split(' ');
    let mut index: u64 = words.next().unwrap().parse().unwrap();
    let mut indices = vec![index];
    for run in words {
        let (delta, count) = run.split_once('*').unwrap();
        let delta: i64 = delta.parse().unwrap();
        for _ in 0..count.parse::<u32>().unwrap() {
            index = index.checked_add_signed(delta).unwrap();
            indices.push(index);
        }
    }
    indices
}

/// A rank with a case's extents, in the middle of a model: only relative layers and heads may matter.
fn rank(case: &Case) -> RankShape {
    let dtype = Dtype::ALL.into_iter().find(|dtype| dtype.name() == case.extents["dtype"]).unwrap();
    let (rule, heads) = if case.is_latent() {
        let (latent_dim, rope_dim) = (case.extent("latent-dim"), case.extent("rope-dim"));
        (GroupRule::MlaLatent { latent_dim, rope_dim }, 0..1)
    } else {
        let (key_dim, value_dim) = (case.extent("key-dim"), case.extent("value-dim"));
        (GroupRule::FullAttention { key_dim, value_dim }, 3..3 + case.extent("heads"))
    };
    RankShape {
        group: 0,
        rule,
        dtype,
        rope: RopePairing::RotateHalf,
        layers: (5..5 + case.extent("layers")).into(),
        heads,
        replica: Replica::ONLY,
        block_tokens: case.extent("block-tokens"),
        blocks: case.extent("blocks"),
        page_bytes: case.extents.get("page-bytes").map(|bytes| bytes.parse().unwrap()),
    }
}

/// Where our geometry has the elements of a block, `[token][head][dim]`, in bytes of a region.
fn ours(geometry: &Geometry, layer: u32, kind: TensorKind, block: u32) -> (u32, Vec<u64>) {
    let tensor = geometry.tensor(geometry.layers.bounds().start + layer, kind).unwrap();
    let mut offsets = Vec::new();
    for token in 0..geometry.block_tokens {
        for head in 0..geometry.head_count() {
            for dim in 0..geometry.dim(kind) {
                let index = geometry.paging(kind).unwrap().offset(block, token, head, dim);
                offsets.push(tensor.offset + index * u64::from(geometry.dtype.bytes()));
            }
        }
    }
    (tensor.region, offsets)
}

/// What differs first between a layout and a case; `None` if every element is where the case has it.
fn difference(layout: EngineLayout, case: &Case) -> Option<String> {
    let rank = rank(case);
    let memory = match layout.memory(&rank) {
        Ok(memory) => memory,
        Err(error) => return Some(error.to_string()),
    };
    let bytes = u64::from(rank.dtype.bytes());
    let geometry = memory.geometry;
    let regions: Vec<u64> = case.regions.iter().map(|elements| elements * bytes).collect();
    if geometry.regions != regions {
        return Some(format!("regions of {:?} bytes, vectors {regions:?}", geometry.regions));
    }
    assert_eq!(memory.regions.iter().map(|region| region.bytes).collect::<Vec<_>>(), regions);
    if case.ids.1 != geometry.blocks - 1 {
        return Some(format!("block ids to {}, vectors to {}", geometry.blocks - 1, case.ids.1));
    }
    let mut seen = BTreeSet::new();
    for tensor in &case.tensors {
        let kind = match tensor.kind.as_str() {
            "key" => TensorKind::Key,
            "value" => TensorKind::Value,
            "latent" => TensorKind::Latent,
            other => panic!("{layout} has a tensor of {other}"),
        };
        assert!(seen.insert((tensor.layer, kind)), "{layout}: layer {} {kind:?} twice", tensor.layer);
        assert!(
            tensor.blocks.iter().map(|(id, _)| *id).eq(case.ids.0..=case.ids.1),
            "{layout}: a block is missing"
        );
        for (block, indices) in &tensor.blocks {
            let theirs = indices.iter().map(|index| index * bytes).collect();
            let ours = ours(&geometry, tensor.layer, kind, *block);
            if ours != (tensor.region, theirs) {
                return Some(format!("layer {} {kind:?} block {block}: {ours:?}", tensor.layer));
            }
        }
    }
    let expected = geometry.tensors.len() * rank.layers.iter().count();
    assert_eq!(seen.len(), expected, "{layout} {}: a tensor has no vectors", case.name);
    None
}

#[test]
fn every_element_of_every_named_layout_is_where_the_engine_has_it() {
    for (layout, cases) in vectors(folder()) {
        let layout: EngineLayout = layout.parse().expect("vectors of a layout that has no name");
        assert!(!cases.is_empty(), "{layout} has no case");
        for case in &cases {
            assert_eq!(difference(layout, case), None, "{layout} {}", case.name);
        }
    }
}

#[test]
fn every_named_layout_has_vectors() {
    let vectors = vectors(folder());
    for layout in EngineLayout::ALL {
        assert!(vectors.contains_key(layout.name()), "{layout} has no vectors: add it to golden/layouts.py");
    }
    assert_eq!(vectors.len(), EngineLayout::ALL.len());
}

/// The vectors are worth something only if they tell the layouts apart.
#[test]
fn vectors_of_one_layout_fit_no_other() {
    for (name, cases) in vectors(folder()) {
        for case in cases.iter().filter(|case| case.tells_layouts_apart()) {
            for other in EngineLayout::ALL.into_iter().filter(|other| other.name() != name) {
                assert!(
                    difference(other, case).is_some(),
                    "{other} fits the vectors of {name} {}",
                    case.name
                );
            }
        }
    }
}

/// mistral.rs has a latent and its rotary part in two allocations: no base and strides give both, so it has no name. Its vectors say so,
/// and wait, whole and readable.
#[test]
fn the_latents_without_a_name_lie_in_two_allocations() {
    let vectors = vectors(folder().join("latent"));
    assert_eq!(vectors.keys().collect::<Vec<_>>(), ["mistralrs-mla"]);
    for (name, case) in vectors.iter().flat_map(|(name, cases)| cases.iter().map(move |case| (name, case))) {
        assert!(name.parse::<EngineLayout>().is_err(), "{name} has a geometry: move its vectors");
        let (latent, rope) = (case.extent("latent-dim"), case.extent("rope-dim"));
        let mut elements = 0;
        for tensor in &case.tensors {
            let lengths: BTreeSet<usize> = tensor.blocks.iter().map(|(_, indices)| indices.len()).collect();
            assert_eq!((tensor.blocks.len(), lengths.len()), (3, 1), "{name}");
            elements += tensor.blocks[0].1.len();
            let end = tensor.blocks.iter().flat_map(|(_, indices)| indices).max().unwrap();
            assert!(*end < case.regions[tensor.region as usize], "{name}");
        }
        let expected = case.extent("layers") * case.extent("block-tokens") * (latent + rope);
        assert_eq!(elements, expected as usize, "{name} {}", case.name);
        let regions: BTreeSet<u32> = case.tensors.iter().map(|tensor| tensor.region).collect();
        assert_eq!(
            regions.len(),
            2 * case.extent("layers") as usize,
            "{name}: latent and rope share a region"
        );
    }
}
