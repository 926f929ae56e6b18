//! What the bytes of a portable KV cache are: dtypes, geometry, namespace, keys, object layout, checksums, conversion.
//!
//! An engine keeps the keys and values of attention in *blocks* of its own size, order and sharding. This crate defines one form at
//! rest that does not depend on any of it: for a given key and slice, the payload is byte-identical whatever engine, layout, block
//! size or parallelism produced it from the same KV. [SPEC.md](https://github.com/kvbridge/kvbridge/blob/main/kv-format/SPEC.md) is
//! normative; this crate follows it.
//!
//! * [`Namespace`]: everything besides tokens that determines KV bytes. It fixes the chunk size and the [`SliceTable`].
//! * [`chunks`]: cuts a token sequence into [`Chunk`]s, each keyed by its whole prefix.
//! * [`ObjectLayout`], [`ObjectHeader`]: one chunk x one slice as an object: header pages, then sections
//!   `[layer][kind][token][head][dim]`, each with a CRC-64/NVME.
//! * [`Geometry`]: where an element is in an engine's paged memory, as data; [`LayerPlan`]: the strided runs between that memory and
//!   sections.
//! * [`RankPlan`]: what one rank moves for some chunks and layers: objects, byte ranges, and the steps of its device and of the host.
//! * [`kernels`]: the copies that a plan describes, at the speed of memory, with the checksum taken on the way.
//! * [`EngineLayout`]: the layouts that engines have, by name, each of which builds the geometry of a rank.
//! * [`convert`]: the naive element-by-element conversion, oracle for everything faster.
//! * [`flavour`]: one FP8 flavour into another, by exact rules for codes and scales, lossy only by name.
//! * [`explain()`]: what a key is made of, and the first thing in which two sequences differ.
//! * [`lmcache`]: the chain of hashes that LMCache uses, as a key scheme of its own.
//!
//! It does no I/O, has no async code and allocates nothing that its input does not warrant. `unsafe` is forbidden in all that parses;
//! only the vector loads and stores of the kernels have any.
//!
//! # What it is not
//!
//! * **Not a tensor file.** safetensors or GGUF hold tensors by name, in the layout of whoever wrote them. Here nothing is named by
//!   its writer and there is one right layout: that is what lets engines which know nothing of each other share, and deduplicate.
//! * **Not a key scheme for one engine.** Hashes over block ids, Python objects or a rank's number miss across engines; keys here
//!   are digests of tokens and of a [`Namespace`] that two sides can compare.
//! * **Not a converter of values.** Order is converted, numbers are not: a flavour of FP8 that the reader does not have is a miss,
//!   unless it recodes ([`flavour`]), which is exact or refused or counted.
//!
//! A model's KV is one or several [`KvGroup`]s: full attention, sliding window, MLA latents, a sparse index, recurrent state. Each is
//! stored as bf16, f16, f32 or any 8-bit flavour, bit for bit, with its [`Scales`] as sections of their own.
//!
//! # From tokens to objects
//!
//! ```
//! use kv_format::{
//!     InputDigest, KvGroup, ModelIdentity, Namespace, ObjectIdentity, ObjectLayout, ObjectName, RopePairing, chunks,
//! };
//! # fn main() -> kv_format::Result<()> {
//! let model = ModelIdentity {
//!     name: "llama-3.1-70b".into(),
//!     weights: InputDigest([7; 32]), // a digest of the weights, not of their name
//!     adapters: vec![],
//!     weight_quantisation: "none".into(),
//!     rope_pairing: RopePairing::RotateHalf,
//!     rope_theta: 500_000.0,
//!     rope_scaling: "llama3:8:1:4:8192".into(),
//!     groups: vec![KvGroup::full_attention(80, 8, 128)],
//! };
//! let namespace = Namespace::builder(model).tensor_parallel(&[8, 16]).tenant("acme").build()?;
//!
//! let tokens: Vec<u32> = (0..700).collect();
//! let chunks = chunks(&namespace, &tokens, &[])?;
//! assert_eq!(chunks.iter().map(|chunk| chunk.tokens.len()).collect::<Vec<_>>(), [256, 256, 188]); // the last is a tail
//!
//! let identity = ObjectIdentity::new(&namespace, &chunks[1], 3)?;
//! let layout = ObjectLayout::new(&namespace, &identity.slice, identity.token_count)?;
//! assert_eq!((layout.header_len, layout.sections.len()), (8192, 160));
//! let name = ObjectName { namespace: identity.namespace, key: identity.key, chunk_index: 1, slice: 3 };
//! assert!(name.to_string().ends_with(".1.3"));
//! # Ok(()) }
//! ```
//!
//! # Why two engines do not share
//!
//! ```
//! # use kv_format::*;
//! # fn main() -> Result<()> {
//! # let model = ModelIdentity {
//! #     name: "m".into(), weights: InputDigest([7; 32]), adapters: vec![], weight_quantisation: "none".into(),
//! #     rope_pairing: RopePairing::RotateHalf, rope_theta: 1e4, rope_scaling: "none".into(),
//! #     groups: vec![KvGroup::full_attention(2, 2, 64)],
//! # };
//! let prefill = Namespace::builder(model.clone()).build()?;
//! let decode = Namespace::builder(model).dtype(Dtype::E4m3Fnuz).build()?;
//! assert_ne!(prefill.digest(), decode.digest()); // every lookup misses, and this says why:
//! let differences = prefill.differences(&decode);
//! assert_eq!(differences.len(), 1);
//! assert_eq!((&*differences[0].component, &*differences[0].theirs), ("stored-dtype", "e4m3fnuz"));
//! # Ok(()) }
//! ```
//!
//! # An object, and what a reader refuses
//!
//! A reader compares the header with what it wants before it believes it, and each section with its checksum:
//!
//! ```
//! # use kv_format::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let model = ModelIdentity {
//! #     name: "m".into(), weights: InputDigest([7; 32]), adapters: vec![], weight_quantisation: "none".into(),
//! #     rope_pairing: RopePairing::RotateHalf, rope_theta: 1e4, rope_scaling: "none".into(),
//! #     groups: vec![KvGroup::full_attention(2, 2, 64)],
//! # };
//! # let namespace = Namespace::builder(model).build()?;
//! let tokens: Vec<u32> = (0..512).collect();
//! let chunks = chunks(&namespace, &tokens, &[])?;
//! let identity = ObjectIdentity::new(&namespace, &chunks[0], 0)?;
//! let layout = ObjectLayout::new(&namespace, &identity.slice, identity.token_count)?;
//!
//! let mut object = vec![0; usize::try_from(layout.object_len)?];
//! let mut checksums = Vec::new();
//! for section in &layout.sections {
//!     let start = usize::try_from(section.offset)?;
//!     let bytes = &mut object[start..start + usize::try_from(section.len)?];
//!     bytes.fill(7); // [token][head][dim] of section.layer, section.kind
//!     checksums.push(Checksum::of(bytes));
//! }
//! let header_len = usize::try_from(layout.header_len)?;
//! let header = ObjectHeader { identity: identity.clone(), layout: layout.clone(), checksums, producer: "docs".into() };
//! header.encode(&mut object[..header_len])?; // last
//!
//! let read = ObjectHeader::decode(&object, object.len() as u64)?;
//! read.expect(&identity, &layout)?; // and every section is compared with read.checksums
//!
//! let other = ObjectIdentity::new(&namespace, &chunks[1], 0)?;
//! assert_eq!(read.expect(&other, &layout).unwrap_err().kind(), ErrorKind::Incompatible);
//! object[60] ^= 1;
//! assert_eq!(ObjectHeader::decode(&object, object.len() as u64).unwrap_err().kind(), ErrorKind::Corrupt);
//! # Ok(()) }
//! ```
//!
//! # An engine's memory as data
//!
//! A layout is an affine map; strided runs follow from it, few for layouts that agree, many small ones for layouts that do not:
//!
//! ```
//! # use kv_format::*;
//! # fn main() -> Result<()> {
//! let geometry = Geometry::new(AttentionParts {
//!     dtype: Dtype::Bf16,
//!     rope: RopePairing::RotateHalf,
//!     layers: 0..1,
//!     heads: 0..2,
//!     replica: Replica::ONLY,
//!     key_dim: 64,
//!     value_dim: 64,
//!     block_tokens: 16,
//!     blocks: 8,
//!     key: PagingLayout::x_packed(16, 2, 64, 8), // ROCm's K: [block, head, dim / 8, token, 8]
//!     value: PagingLayout::token_major(16, 2, 64),
//!     tensors: vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 1, offset: 0 }],
//!     regions: vec![8 * 16 * 2 * 64 * 2; 2],
//! })?;
//! let plan = LayerPlan::new(&geometry, &[5, 0], 0..32, 0..2)?; // 32 tokens in blocks 5 and 0
//! let mut runs = [(0, 0); 2];
//! for (run, kind) in runs.iter_mut().zip(TensorKind::BOTH) {
//!     plan.for_each_run(kind, |_device, _section, bytes| *run = (run.0 + 1, bytes));
//! }
//! assert_eq!(runs, [(32 * 2 * 8, 16), (2, 4096)]); // K in runs of 16 bytes, V in whole blocks
//! # Ok(()) }
//! ```
//!
//! # Features
//!
//! * `reference`: a model's KV of which every element is known, and random geometries, for tests: ours and yours.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[forbid(unsafe_code)]
mod checksum;
#[forbid(unsafe_code)]
pub mod convert;
#[forbid(unsafe_code)]
mod digest;
#[forbid(unsafe_code)]
mod dtype;
#[forbid(unsafe_code)]
mod error;
#[forbid(unsafe_code)]
mod explain;
pub mod flavour;
#[forbid(unsafe_code)]
mod geometry;
pub mod kernels;
#[forbid(unsafe_code)]
mod key;
#[forbid(unsafe_code)]
mod kind;
#[forbid(unsafe_code)]
mod layers;
#[forbid(unsafe_code)]
pub mod lmcache;
#[forbid(unsafe_code)]
mod name;
#[forbid(unsafe_code)]
mod namespace;
#[forbid(unsafe_code)]
mod object;
#[forbid(unsafe_code)]
mod plan;
#[forbid(unsafe_code)]
mod rank_plan;
#[cfg(feature = "reference")]
#[cfg_attr(docsrs, doc(cfg(feature = "reference")))]
pub mod reference;

pub use checksum::Checksum;
pub use digest::{ChunkKey, ContentDigest, InputDigest, NamespaceDigest};
pub use dtype::{Dtype, RopePairing};
pub use error::{Error, ErrorKind, Result};
pub use explain::{ChunkExplanation, Comparison, Explanation, SequenceDifference, explain};
pub use geometry::{
    AttentionParts, Axis, EngineLayout, Geometry, GeometryParts, PagingLayout, RankMemory, RankRegion,
    RankShape, RegionContents, Replica, Split, TensorBase, TensorGeometry,
};
pub use key::{Chunk, Extra, chunks};
pub use kind::TensorKind;
pub use layers::LayerSet;
pub use name::{ObjectName, RecordKind, RecordName};
pub use namespace::{
    CHUNK_TOKENS_MULTIPLE, Component, DEFAULT_CHUNK_TOKENS, Difference, FORMAT_MAJOR, GroupRule, KvGroup,
    ModelIdentity, Namespace, NamespaceBuilder, ScaleDirection, ScaleGranularity, Scales, Slice, SliceTable,
};
pub use object::{
    FORMAT_MINOR, HEADER_PAGE, MAGIC, ObjectHeader, ObjectIdentity, ObjectLayout, PRODUCER_BYTES, Section,
};
pub use plan::{LayerPlan, Nest, NestDim, SectionPlace, StridedRun, Transfer};
pub use rank_plan::{Granularity, HostStep, Movement, ObjectPart, RankPlan, RowMove, RowPlan, Steps};
