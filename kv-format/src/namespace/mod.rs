//! The namespace: everything besides tokens that determines KV bytes, digested. Two engines share objects only if every component
//! agrees; `components` and `differences` say which one does not.

mod groups;
mod slices;

pub use groups::{GroupRule, KvGroup, ScaleDirection, ScaleGranularity, Scales};
pub use slices::{Slice, SliceTable};

use crate::{Dtype, Error, InputDigest, NamespaceDigest, Result, RopePairing};
use groups::{check_apart, joined};

/// Version of the format that names, keys and objects belong to.
pub const FORMAT_MAJOR: u16 = 1;

/// Tokens of a chunk unless the namespace says otherwise.
pub const DEFAULT_CHUNK_TOKENS: u32 = 256;

/// Chunks are a multiple of this many tokens, which every engine's block size divides or is divided by.
pub const CHUNK_TOKENS_MULTIPLE: u32 = 16;

/// What of a model determines its KV bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelIdentity {
    /// Name for people; part of the digest.
    pub name: String,
    /// Digest of the weights as they are loaded: a name or a branch is not immutable.
    pub weights: InputDigest,
    /// Digests of the adapters that are active, in order.
    pub adapters: Vec<InputDigest>,
    /// How the weights are quantised, in the engine's words; `none` if they are not.
    pub weight_quantisation: String,
    /// Which elements of a head are rotated together.
    pub rope_pairing: RopePairing,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Canonical text of the rope scaling; `none` if there is none.
    pub rope_scaling: String,
    /// KV groups: all of them, since a chunk of which one is missing is of no use.
    pub groups: Vec<KvGroup>,
}

/// One thing that determines KV bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its name, fixed by SPEC.md.
    pub name: String,
    /// Its canonical bytes.
    pub value: Vec<u8>,
    /// For people. Secrets are shown as digests.
    pub shown: String,
}

/// A difference between two namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Name of the component.
    pub component: String,
    /// What the one has.
    pub ours: String,
    /// What the other has.
    pub theirs: String,
}

/// Everything besides tokens that determines KV bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    model: ModelIdentity,
    dtype: Dtype,
    chunk_tokens: u32,
    slices: SliceTable,
    tenant: String,
    components: Vec<Component>,
    digest: NamespaceDigest,
}

/// Collects what a [`Namespace`] needs.
#[derive(Debug, Clone)]
pub struct NamespaceBuilder {
    model: ModelIdentity,
    dtype: Dtype,
    chunk_tokens: u32,
    tensor_parallel: Vec<u32>,
    stage_starts: Vec<u32>,
    tenant: String,
}

impl Namespace {
    /// Starts a namespace for a model: stored as bf16, chunks of 256 tokens, one slice per KV head where there are at most 16.
    pub fn builder(model: ModelIdentity) -> NamespaceBuilder {
        NamespaceBuilder {
            model,
            dtype: Dtype::Bf16,
            chunk_tokens: DEFAULT_CHUNK_TOKENS,
            tensor_parallel: Vec::new(),
            stage_starts: Vec::new(),
            tenant: String::new(),
        }
    }

    /// The digest under which objects are stored.
    pub fn digest(&self) -> NamespaceDigest {
        self.digest
    }

    /// The model.
    pub fn model(&self) -> &ModelIdentity {
        &self.model
    }

    /// One of the model's KV groups.
    pub fn group(&self, index: u32) -> Option<&KvGroup> {
        self.model.groups.get(index as usize)
    }

    /// Exact flavour in which elements are stored, unless a group has its own.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Exact flavour in which the elements of a group are stored.
    pub fn group_dtype(&self, index: u32) -> Option<Dtype> {
        Some(self.group(index)?.dtype.unwrap_or(self.dtype))
    }

    /// Tokens of a full chunk.
    pub fn chunk_tokens(&self) -> u32 {
        self.chunk_tokens
    }

    /// The slice table.
    pub fn slices(&self) -> &SliceTable {
        &self.slices
    }

    /// Every component in canonical order: what `explain` prints.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// The components in which two namespaces differ: why one does not find what the other stored.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let missing = || "(absent)".to_owned();
        let find = |components: &[Component], name: &str| components.iter().find(|c| c.name == name).cloned();
        let mut names: Vec<&str> =
            self.components.iter().chain(&other.components).map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let mut differences = Vec::new();
        for name in names {
            let (ours, theirs) = (find(&self.components, name), find(&other.components, name));
            if ours.as_ref().map(|c| &c.value) != theirs.as_ref().map(|c| &c.value) {
                differences.push(Difference {
                    component: name.to_owned(),
                    ours: ours.map_or_else(missing, |c| c.shown),
                    theirs: theirs.map_or_else(missing, |c| c.shown),
                });
            }
        }
        differences
    }
}

impl NamespaceBuilder {
    /// Exact flavour in which elements are stored.
    #[must_use]
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// Tokens of a full chunk, a multiple of 16.
    #[must_use]
    pub fn chunk_tokens(mut self, tokens: u32) -> Self {
        self.chunk_tokens = tokens;
        self
    }

    /// Degrees of tensor parallelism that engines of this namespace may have; they fix the slice table.
    #[must_use]
    pub fn tensor_parallel(mut self, degrees: &[u32]) -> Self {
        self.tensor_parallel = degrees.to_vec();
        self
    }

    /// First layers of the pipeline stages that engines of this namespace may have; they fix the slice table.
    #[must_use]
    pub fn pipeline_stages(mut self, first_layers: &[u32]) -> Self {
        self.stage_starts = first_layers.to_vec();
        self
    }

    /// Salt that keeps one tenant's objects from another's.
    #[must_use]
    pub fn tenant(mut self, salt: impl Into<String>) -> Self {
        self.tenant = salt.into();
        self
    }

    /// Checks that everything agrees, and digests it.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) naming the component: chunk size, an unplannable parallelism, no KV group, one with
    /// an empty extent, two that hold the same tensors, a theta that is no positive number.
    pub fn build(self) -> Result<Namespace> {
        if self.chunk_tokens == 0 || !self.chunk_tokens.is_multiple_of(CHUNK_TOKENS_MULTIPLE) {
            return Err(Error::invalid(format!(
                "chunks of {} tokens: expected a positive multiple of {CHUNK_TOKENS_MULTIPLE}",
                self.chunk_tokens
            )));
        }
        if !(self.model.rope_theta.is_finite() && self.model.rope_theta > 0.0) {
            return Err(Error::invalid(format!(
                "rope theta {}: expected a positive number",
                self.model.rope_theta
            )));
        }
        if self.model.groups.is_empty() {
            return Err(Error::invalid("the model has no KV groups"));
        }
        check_apart(&self.model.groups)?;
        let slices = SliceTable::plan(&self.model.groups, &self.tensor_parallel, &self.stage_starts)?;
        let components = components(&self, &slices);
        let digest = digest(&components);
        let Self { model, dtype, chunk_tokens, tenant, .. } = self;
        Ok(Namespace { model, dtype, chunk_tokens, slices, tenant, components, digest })
    }
}

/// Digest of the canonical encoding.
fn digest(components: &[Component]) -> NamespaceDigest {
    let mut hasher = blake3::Hasher::new_derive_key("kvbridge 2026-11 namespace v1");
    for component in components {
        for field in [component.name.as_bytes(), &component.value] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
    }
    NamespaceDigest(*hasher.finalize().as_bytes())
}

/// Every component in canonical order.
fn components(parts: &NamespaceBuilder, slices: &SliceTable) -> Vec<Component> {
    let model = &parts.model;
    let text = |name: &str, value: &str| Component {
        name: name.to_owned(),
        value: value.as_bytes().to_vec(),
        shown: value.to_owned(),
    };
    let adapters = model.adapters.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let each = |text: fn(&KvGroup, Dtype) -> String| -> Vec<String> {
        model.groups.iter().map(|group| text(group, parts.dtype)).collect()
    };
    let groups = each(|group, _| group.to_string()).join(";");
    let dtypes = joined(&each(|group, default| group.dtype.unwrap_or(default).name().to_owned()));
    let scales =
        joined(&each(|group, _| group.scales.map_or("none".to_owned(), |scales| scales.to_string())));
    let slices = slices.slices().iter().map(describe_slice).collect::<Vec<_>>().join(";");
    let theta = Component {
        name: "rope-theta".to_owned(),
        value: model.rope_theta.to_bits().to_le_bytes().to_vec(),
        shown: model.rope_theta.to_string(),
    };
    let tenant = Component {
        shown: match parts.tenant.as_str() {
            "" => "(none)".to_owned(),
            salt => format!("blake3:{}", &blake3::hash(salt.as_bytes()).to_hex()[..16]),
        },
        ..text("tenant", &parts.tenant)
    };
    vec![
        text("format", &FORMAT_MAJOR.to_string()),
        text("model", &model.name),
        text("weights", &model.weights.to_string()),
        text("adapters", &adapters),
        text("weight-quantisation", &model.weight_quantisation),
        text("rope-pairing", model.rope_pairing.name()),
        theta,
        text("rope-scaling", &model.rope_scaling),
        text("groups", &groups),
        text("stored-dtype", &dtypes),
        text("scales", &scales),
        text("chunk-tokens", &parts.chunk_tokens.to_string()),
        text("slices", &slices),
        tenant,
    ]
}

/// Canonical text of a slice.
fn describe_slice(slice: &Slice) -> String {
    let Slice { group, layers, heads } = slice;
    format!("{group}:{}-{}:{}-{}", layers.start, layers.end, heads.start, heads.end)
}
