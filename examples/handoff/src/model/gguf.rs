//! GGUF version 3, as far as a Llama-family model in F32, Q4_1 and Q8_0 needs it.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::config::ModelConfig;
use super::gguf_reader::{HeaderReader, Value};
use super::quantisation::Quantisation;
use super::weights::{Tensor, WeightSource};

/// Where a tensor's rows are.
#[derive(Debug, Clone)]
struct Placed {
    quantisation: Quantisation,
    columns: usize,
    rows: usize,
    row_bytes: usize,
    /// From the start of the file.
    offset: u64,
}

/// An open model file: the header is in memory, rows are read when asked for.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, Placed>,
    config: ModelConfig,
}

impl Gguf {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// The file is missing, truncated, not GGUF version 3, not of the Llama architecture, or holds a tensor in a
    /// format other than F32, Q4_1 and Q8_0.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display();
        let mut reader = HeaderReader::open(path)?;
        let magic = reader.magic()?;
        ensure!(&magic == b"GGUF", "{name}: not a GGUF file: it starts with {magic:?}, expected \"GGUF\"");
        let version = reader.u32("the version")?;
        ensure!(version == 3, "{name}: GGUF version {version}, expected 3");
        let tensor_count = reader.u64("the tensor count")?;
        let metadata_count = reader.u64("the metadata count")?;
        let mut metadata = HashMap::new();
        for _ in 0..metadata_count {
            let key = reader.text("a metadata key")?;
            let kind = reader.u32(&key)?;
            let value = reader.value(kind, &key)?;
            metadata.insert(key, value);
        }
        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let (tensor, placed) = read_entry(&mut reader, path)?;
            tensors.insert(tensor, placed);
        }
        let alignment = match metadata.get("general.alignment") {
            Some(Value::Unsigned(alignment)) if *alignment > 0 => *alignment,
            _ => 32,
        };
        let payload = reader.position().next_multiple_of(alignment);
        for (tensor, placed) in &mut tensors {
            let end = (placed.row_bytes as u64)
                .checked_mul(placed.rows as u64)
                .and_then(|bytes| bytes.checked_add(placed.offset))
                .and_then(|end| end.checked_add(payload));
            ensure!(
                end.is_some_and(|end| end <= reader.length()),
                "{name}: truncated: tensor {tensor} ends at {end:?}, the file at {}",
                reader.length()
            );
            placed.offset += payload;
        }
        let config = read_config(&metadata, &tensors).with_context(|| name.to_string())?;
        Ok(Self { path: path.to_path_buf(), file: File::open(path)?, metadata, tensors, config })
    }

    /// A metadata value.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The file's path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read_entry(reader: &mut HeaderReader, path: &Path) -> Result<(String, Placed)> {
    let tensor = reader.text("a tensor name")?;
    let dims = reader.u32(&tensor)?;
    ensure!(
        (1..=2).contains(&dims),
        "{}: tensor {tensor} has {dims} dimensions, expected 1 or 2",
        path.display()
    );
    let columns = usize::try_from(reader.u64(&tensor)?)?;
    let rows = if dims == 2 { usize::try_from(reader.u64(&tensor)?)? } else { 1 };
    let kind = reader.u32(&tensor)?;
    let Some(quantisation) = Quantisation::from_ggml(kind) else {
        bail!(
            "{}: tensor {tensor} is quantised with ggml type {kind}; this engine reads F32 (0), Q4_1 (3), Q8_0 (8)",
            path.display()
        );
    };
    let Some(row_bytes) = quantisation.row_bytes(columns) else {
        bail!("{}: tensor {tensor}: {columns} columns are not whole {quantisation:?} blocks", path.display());
    };
    let offset = reader.u64(&tensor)?;
    Ok((tensor, Placed { quantisation, columns, rows, row_bytes, offset }))
}

fn read_config(metadata: &HashMap<String, Value>, tensors: &HashMap<String, Placed>) -> Result<ModelConfig> {
    let architecture = metadata.get("general.architecture");
    ensure!(
        architecture == Some(&Value::Text("llama".into())),
        "the architecture is {architecture:?}; this engine runs \"llama\""
    );
    let number = |key: &str| match metadata.get(&format!("llama.{key}")) {
        Some(Value::Unsigned(number)) => Ok(usize::try_from(*number)?),
        other => bail!("metadata llama.{key} should be a whole number, found {other:?}"),
    };
    let float = |key: &str| match metadata.get(&format!("llama.{key}")) {
        Some(Value::Float(float)) => Some(*float),
        _ => None,
    };
    let (dim, query_heads) = (number("embedding_length")?, number("attention.head_count")?);
    ensure!(query_heads > 0 && dim.is_multiple_of(query_heads), "{dim} dimensions in {query_heads} heads");
    #[expect(clippy::cast_possible_truncation, reason = "the file holds an f32")]
    let norm_eps = float("attention.layer_norm_rms_epsilon").unwrap_or(1e-5) as f32;
    let config = ModelConfig {
        name: match metadata.get("general.name") {
            Some(Value::Text(name)) => name.clone(),
            _ => "llama".into(),
        },
        weight_quantisation: quantisation_of(tensors.values()),
        layers: number("block_count")?,
        dim,
        ffn: number("feed_forward_length")?,
        query_heads,
        kv_heads: number("attention.head_count_kv")?,
        head_dim: dim / query_heads,
        vocab: tensors.get(&Tensor::Embedding.gguf_name()).map_or(0, |placed| placed.rows),
        context: number("context_length")?,
        rope_base: float("rope.freq_base").unwrap_or(10_000.0),
        norm_eps,
    };
    config.check()?;
    Ok(config)
}

/// The kinds of quantisation in a model, in words.
fn quantisation_of<'a>(tensors: impl Iterator<Item = &'a Placed>) -> String {
    let mut names: Vec<_> = tensors.filter_map(|placed| placed.quantisation.name()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { "none".to_owned() } else { names.join("+") }
}

impl WeightSource for Gguf {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn rows(&self, tensor: Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut name = tensor.gguf_name();
        if tensor == Tensor::Head && !self.tensors.contains_key(&name) {
            name = Tensor::Embedding.gguf_name();
        }
        let file = self.path.display();
        let placed = self.tensors.get(&name).with_context(|| format!("{file}: tensor {name} is missing"))?;
        let expected = tensor.shape(&self.config);
        ensure!(
            (placed.rows, placed.columns) == expected,
            "{file}: tensor {name} is {} x {}, expected {} x {}",
            placed.rows,
            placed.columns,
            expected.0,
            expected.1
        );
        ensure!(rows.start <= rows.end && rows.end <= placed.rows, "{file}: {name} has no rows {rows:?}");
        let mut bytes = vec![0; rows.len() * placed.row_bytes];
        let offset = placed.offset + (rows.start * placed.row_bytes) as u64;
        self.file.read_exact_at(&mut bytes, offset).with_context(|| format!("{file}: reading {name}"))?;
        Ok(placed.quantisation.decode(&bytes))
    }
}

/// BLAKE3 of the whole file.
pub(super) fn file_digest(path: &Path) -> Result<[u8; 32]> {
    let file = File::open(path).with_context(|| format!("{}: cannot open the model", path.display()))?;
    let mut hash = blake3::Hasher::new();
    hash.update_reader(file).with_context(|| format!("{}: cannot read the model", path.display()))?;
    Ok(*hash.finalize().as_bytes())
}
