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
//!   `[layer][K, V][token][head][dim]`, each with a CRC-64/NVME.
//! * [`Geometry`]: where an element is in an engine's paged memory, as data; [`LayerPlan`]: the strided runs between that memory and
//!   sections.
//! * [`convert`]: the naive element-by-element conversion, oracle for everything faster.
//!
//! It does no I/O, has no async code and allocates nothing that its input does not warrant. `unsafe` is forbidden.
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
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod checksum;
pub mod convert;
mod digest;
mod dtype;
mod error;
mod geometry;
mod key;
mod name;
mod namespace;
mod object;
mod plan;
#[cfg(feature = "reference")]
#[cfg_attr(docsrs, doc(cfg(feature = "reference")))]
pub mod reference;

pub use checksum::Checksum;
pub use digest::{ChunkKey, ContentDigest, InputDigest, NamespaceDigest};
pub use dtype::{Dtype, RopePairing};
pub use error::{Error, ErrorKind, Result};
pub use geometry::{Axis, Geometry, GeometryParts, PagingLayout, Replica, Split, TensorBase, TensorKind};
pub use key::{Chunk, Extra, chunks};
pub use name::{ObjectName, RecordKind, RecordName};
pub use namespace::{
    CHUNK_TOKENS_MULTIPLE, Component, DEFAULT_CHUNK_TOKENS, Difference, FORMAT_MAJOR, KvGroup, ModelIdentity,
    Namespace, NamespaceBuilder, Slice, SliceTable,
};
pub use object::{
    FORMAT_MINOR, HEADER_PAGE, MAGIC, ObjectHeader, ObjectIdentity, ObjectLayout, PRODUCER_BYTES, Section,
};
pub use plan::{LayerPlan, Nest, NestDim, SectionPlace, StridedRun, Transfer};
