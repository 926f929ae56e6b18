//! What the stored KV belongs to: two clusters share objects only if all of this agrees.

use anyhow::{Result, anyhow};
use kv_format::{Dtype, InputDigest, KvGroup, ModelIdentity, Namespace, RopePairing};

use crate::engine::shard::Shard;
use crate::model::config::ModelConfig;

/// Both clusters are this tenant's.
const TENANT: &str = "handoff-demo";
/// Tokens of a chunk: both engines' block sizes divide it.
const CHUNK_TOKENS: u32 = 256;

/// Which elements of a head the engines rotate together; llama.cpp's order, in which GGUF files hold Q and K.
pub(super) const ROPE_PAIRING: RopePairing = RopePairing::Interleaved;
/// How the engines keep KV.
pub(super) const DTYPE: Dtype = Dtype::Bf16;

/// The namespace of a model's KV, cut so that groups of every possible size read and write whole objects.
pub(super) fn namespace(model: &ModelConfig, weights_digest: [u8; 32]) -> Result<Namespace> {
    let (layers, heads) = (u32::try_from(model.layers)?, u32::try_from(model.kv_heads)?);
    let identity = ModelIdentity {
        name: model.name.clone(),
        weights: InputDigest(weights_digest),
        adapters: Vec::new(),
        weight_quantisation: model.weight_quantisation.clone(),
        rope_pairing: ROPE_PAIRING,
        rope_theta: model.rope_base,
        rope_scaling: "none".to_owned(),
        groups: vec![KvGroup::full_attention(layers, heads, u32::try_from(model.head_dim)?)],
    };
    let degrees: Vec<u32> = Shard::degrees(model).into_iter().map(u32::try_from).collect::<Result<_, _>>()?;
    Namespace::builder(identity)
        .dtype(DTYPE)
        .chunk_tokens(CHUNK_TOKENS)
        .tensor_parallel(&degrees)
        .tenant(TENANT)
        .build()
        .map_err(|error| anyhow!("the model's KV cannot be stored: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::seeded::Seeded;
    use crate::model::weights::WeightSource;

    #[test]
    fn whatever_changes_the_kv_changes_the_namespace() {
        let model = Seeded::new(1).config().clone();
        let ours = namespace(&model, [7; 32]).unwrap();
        assert_eq!(ours.slices().slices().len(), 3, "one slice for each KV head");
        assert_eq!(ours, namespace(&model, [7; 32]).unwrap());
        let differing = |model: &ModelConfig, digest| {
            let theirs = namespace(model, digest).unwrap();
            assert_ne!(ours.digest(), theirs.digest());
            let differences = ours.differences(&theirs);
            differences.into_iter().map(|one| one.component).collect::<Vec<_>>()
        };
        assert_eq!(differing(&model, [8; 32]), ["weights"]);
        let changed = |change: fn(&mut ModelConfig)| {
            let mut model = model.clone();
            change(&mut model);
            differing(&model, [7; 32])
        };
        assert_eq!(changed(|model| model.rope_base = 5e5), ["rope-theta"]);
        assert_eq!(changed(|model| model.weight_quantisation = "q8_0".into()), ["weight-quantisation"]);
        assert_eq!(changed(|model| model.layers = 5), ["groups", "slices"]);
    }
}
