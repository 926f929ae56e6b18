//! Where the bytes of a KV cache live: host memory here, an (emulated) accelerator's in [`crate::transfer`].

use std::sync::{PoisonError, RwLock};

/// Byte regions that hold a KV cache, in the order layer 0 K, layer 0 V, layer 1 K, ...
///
/// A region that does not exist panics: the engine asked for them, so that is a bug.
pub trait CacheMemory: Send + Sync {
    /// The regions' byte lengths.
    fn regions(&self) -> Vec<u64>;

    /// Works on a whole region in place, as a kernel of the engine would.
    fn with(&self, region: usize, work: &mut dyn FnMut(&mut [u8]));

    /// Looks at a whole region, beside others who look.
    fn with_shared(&self, region: usize, work: &mut dyn FnMut(&[u8]));
}

/// Plain host memory.
#[derive(Debug)]
pub struct VecMemory(Vec<RwLock<Vec<u8>>>);

impl VecMemory {
    /// Zeroed regions of the given byte lengths.
    #[must_use]
    pub fn new(regions: &[u64]) -> Self {
        let region = |&length: &u64| RwLock::new(vec![0; usize::try_from(length).unwrap_or(usize::MAX)]);
        Self(regions.iter().map(region).collect())
    }
}

impl CacheMemory for VecMemory {
    fn regions(&self) -> Vec<u64> {
        self.0
            .iter()
            .map(|region| region.read().unwrap_or_else(PoisonError::into_inner).len() as u64)
            .collect()
    }

    fn with(&self, region: usize, work: &mut dyn FnMut(&mut [u8])) {
        work(&mut self.0[region].write().unwrap_or_else(PoisonError::into_inner));
    }

    fn with_shared(&self, region: usize, work: &mut dyn FnMut(&[u8])) {
        work(&self.0[region].read().unwrap_or_else(PoisonError::into_inner));
    }
}
