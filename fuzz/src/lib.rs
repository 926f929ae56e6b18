//! What the fuzz targets check, one function of bytes each. `kv-format/tests/corpus.rs` compiles the same source to replay the corpora.

pub mod decode;
pub mod geometries;
pub mod groups;
pub mod key_text;
pub mod numbers;
pub mod plan;
