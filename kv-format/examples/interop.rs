//! The Rust side of the proof that the format needs no Rust: `cargo xtask test --only interop` runs it with `interop/kv_object.py`.
//!
//! `write FOLDER` writes objects, the KV that they hold, what they were made of, and damaged ones with our verdict.
//! `compare FOLDER` reads the objects that Python wrote from the same description, and wants ours, byte for byte.

#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a check fails by panicking, and says what it did"
)]

#[path = "interop/groups.rs"]
mod groups;
#[path = "../tests/mutations/mutator.rs"]
mod mutator;
#[path = "../tests/golden/namespaces.rs"]
mod namespaces;
#[path = "../tests/mutations/repair.rs"]
mod repair;
#[path = "../tests/mutations/valid.rs"]
mod valid;

use kv_format::reference::builder;
use kv_format::*;
use mutator::Mutator;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use valid::{Valid, payload};

/// Damaged objects that both sides judge.
const DAMAGED: usize = 6000;

/// A sequence of tokens in a namespace.
struct Case {
    name: String,
    namespace: Namespace,
    tokens: Vec<u32>,
    extras: Vec<Extra>,
    producer: &'static str,
}

impl Case {
    fn new(name: impl Into<String>, namespace: NamespaceBuilder, tokens: std::ops::Range<u32>) -> Self {
        Self::of(name, namespace.build().unwrap(), tokens)
    }

    fn of(name: impl Into<String>, namespace: Namespace, tokens: std::ops::Range<u32>) -> Self {
        Self {
            name: name.into(),
            namespace,
            tokens: tokens.collect(),
            extras: vec![],
            producer: "interop 1.0",
        }
    }

    fn chunks(&self) -> Vec<Chunk> {
        chunks(&self.namespace, &self.tokens, &self.extras).unwrap()
    }

    /// Every object of the sequence with its name.
    fn objects(&self) -> Vec<(String, Valid)> {
        let mut objects = Vec::new();
        for chunk in self.chunks() {
            for slice in 0..u32::try_from(self.namespace.slices().slices().len()).unwrap() {
                let name = ObjectName {
                    namespace: self.namespace.digest(),
                    key: chunk.key,
                    chunk_index: chunk.index,
                    slice,
                };
                objects.push((name.to_string(), Valid::new(&self.namespace, &chunk, slice, self.producer)));
            }
        }
        objects
    }

    /// All KV of the sequence as `[layer][token][head][dim]` of each kind of each group, a state after each token and the scales of each
    /// token and head: neither the slice table nor the shape of a section has a part in it.
    fn kv(&self) -> Vec<u8> {
        let mut kv = Vec::new();
        for (index, group) in (0..).zip(&self.namespace.model().groups) {
            for (kind, dim) in group.tensors() {
                let scales = group.scales.filter(|_| kind.is_scale());
                let dtype = scales.map_or(self.namespace.group_dtype(index).unwrap(), |scales| scales.dtype);
                let (rows, heads) = self.rows_and_heads(kind, scales, group.kv_heads);
                for layer in group.layers.iter() {
                    let shape = [self.len(), group.kv_heads, dim];
                    let section = Section { layer, kind, dtype, shape, offset: 0, len: 0 };
                    kv.extend(payload(&section, &rows, &heads));
                }
            }
        }
        kv
    }

    fn len(&self) -> u32 {
        u32::try_from(self.tokens.len()).unwrap()
    }

    /// The rows and heads of [`reference::element`] at every token and head.
    fn rows_and_heads(&self, kind: TensorKind, scales: Option<Scales>, heads: u32) -> (Vec<u32>, Vec<u32>) {
        let (tokens, chunk) = (0..self.len(), self.namespace.chunk_tokens());
        let granularity = scales.map(|scales| scales.granularity);
        let rows = match (kind, granularity) {
            // That after a chunk's last token is the chunk's; no object holds the others, which are therefore any.
            (TensorKind::State, _) => {
                let last = |token: u32| (token + 1).is_multiple_of(chunk) || token + 1 == self.len();
                tokens.map(|token| if last(token) { token / chunk } else { u32::MAX - token }).collect()
            }
            (_, Some(ScaleGranularity::PerTensor | ScaleGranularity::PerHead)) => vec![0; self.tokens.len()],
            _ => tokens.collect(),
        };
        let one = granularity == Some(ScaleGranularity::PerTensor);
        (rows, (0..heads).map(|head| if one { 0 } else { head }).collect())
    }

    /// What Python may know: components as text (the f64 as a number), and no digest.
    fn description(&self) -> Value {
        let mut namespace = serde_json::Map::new();
        for Component { name, value, .. } in self.namespace.components() {
            let value = match name.as_str() {
                "rope-theta" => json!(self.namespace.model().rope_theta),
                _ => json!(String::from_utf8(value.clone()).unwrap()),
            };
            namespace.insert(name.clone(), value);
        }
        let extras: Vec<_> =
            self.extras.iter().map(|extra| json!([extra.position, extra.digest.to_string()])).collect();
        json!({
            "name": self.name,
            "namespace": namespace,
            "tokens": self.tokens,
            "extras": extras,
            "producer": self.producer,
        })
    }
}

/// Every golden object; every dtype; tails; parents; several slices, stages and layers that do not begin at zero; both alignments;
/// headers of two pages; texts beyond ASCII; every rule and form of scales.
fn cases() -> Vec<Case> {
    let golden =
        |name, namespace| Case { producer: "kvbridge golden", ..Case::of(name, namespace, 100..123) };
    let mut cases = vec![
        golden("golden", namespaces::small()),
        golden("golden-two-groups", namespaces::two_groups()),
        golden("golden-token-head-scales", namespaces::token_head_scales()),
        Case::new("pages-and-lines", builder(1, 1, 32).dtype(Dtype::F32), 0..300),
        Case::new("two-header-pages", builder(80, 1, 2).chunk_tokens(16), 7..33),
        Case::new(
            "parallel",
            builder(5, 24, 4).chunk_tokens(32).tensor_parallel(&[4, 8]).pipeline_stages(&[0, 2]),
            0..64,
        ),
    ];
    for dtype in Dtype::ALL {
        cases.push(Case::new(dtype.name(), builder(2, 3, 8).chunk_tokens(16).dtype(dtype), 0..40));
    }
    cases.push(every_component());
    cases.extend(
        groups::namespaces().into_iter().map(|(name, builder, tokens)| Case::new(name, builder, tokens)),
    );
    cases
}

fn every_component() -> Case {
    let model = ModelIdentity {
        name: "modèle/大".into(),
        weights: InputDigest([0xA5; 32]),
        adapters: vec![InputDigest([1; 32]), InputDigest([0xFE; 32])],
        weight_quantisation: "q4_1".into(),
        rope_pairing: RopePairing::Interleaved,
        rope_theta: 1e6 / 3.0,
        rope_scaling: "yarn:4:32768".into(),
        groups: vec![KvGroup::new(GroupRule::FullAttention { key_dim: 12, value_dim: 8 }, 3..5, 2)],
    };
    let extra = |position, digest| Extra { position, digest: InputDigest([digest; 32]) };
    Case {
        // The last two at one place, and one in the tail; chunk 1 has none.
        extras: vec![extra(0, 7), extra(15, 9), extra(15, 8), extra(33, 1)],
        producer: "прoducer ✓",
        ..Case::new(
            "every-component",
            Namespace::builder(model).chunk_tokens(16).tenant("größe"),
            1 << 31..(1 << 31) + 40,
        )
    }
}

fn verdict(object: &Valid, bytes: &[u8]) -> &'static str {
    match object.read(bytes).map_err(|error| error.kind()) {
        Ok(()) => "read",
        Err(ErrorKind::NotKvObject) => "foreign",
        Err(ErrorKind::Incompatible) => "incompatible",
        Err(ErrorKind::Truncated | ErrorKind::Corrupt) => "damaged",
        Err(kind) => panic!("a reader may not say {kind:?} of an object"),
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn write(folder: &Path) {
    let cases = cases();
    let mut objects = Vec::new();
    for case in &cases {
        put(&folder.join(format!("{}.kv", case.name)), &case.kv());
        for (name, object) in case.objects() {
            put(&folder.join("rust").join(&name), &object.bytes);
            objects.push((name, object));
        }
    }
    let seed = 0x1D_2026;
    let mut mutator = Mutator(seed);
    let (names, objects): (Vec<_>, Vec<_>) = objects.into_iter().unzip();
    let mut damaged = Vec::new();
    for number in 0..DAMAGED {
        let mutant = mutator.mutant(&objects, 1);
        put(&folder.join("damaged").join(number.to_string()), &mutant.bytes);
        let verdict = match verdict(&objects[mutant.of], &mutant.bytes) {
            // A splice makes several things wrong, and the specification does not say which one counts.
            "damaged" | "incompatible" if mutant.how.contains("spliced") => "refused",
            verdict => verdict,
        };
        damaged.push(json!([names[mutant.of], verdict, mutant.how]));
    }
    // A whole object under another one's name.
    for (number, pair) in (DAMAGED..).zip(objects.windows(2).step_by(7)) {
        put(&folder.join("damaged").join(number.to_string()), &pair[0].bytes);
        let index = damaged.len() - DAMAGED;
        damaged.push(json!([names[7 * index + 1], verdict(&pair[1], &pair[0].bytes), "another's name"]));
    }
    let descriptions: Vec<_> = cases.iter().map(Case::description).collect();
    let listing = json!({ "cases": descriptions, "damaged": damaged });
    put(&folder.join("cases.json"), listing.to_string().as_bytes());
    println!("Rust wrote {} objects and {} damaged ones (seed {seed:#x})", objects.len(), damaged.len());
}

fn compare(folder: &Path) {
    let mut count = 0;
    for case in cases() {
        for (name, ours) in case.objects() {
            let path = folder.join("python").join(&name);
            let theirs = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            if let Err(error) = ours.read(&theirs) {
                panic!("{}: {name}, which Python wrote, is refused: {error}", case.name);
            }
            assert!(
                ours.bytes == theirs,
                "{}: {name}, which Python wrote, has other bytes than ours",
                case.name
            );
            count += 1;
        }
    }
    println!("Rust read {count} objects that Python wrote: each has the bytes that Rust writes");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", folder] => write(Path::new(folder)),
        ["compare", folder] => compare(Path::new(folder)),
        _ => panic!("expected: write FOLDER | compare FOLDER"),
    }
}
