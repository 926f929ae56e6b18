//! Which addresses can be an engine's KV memory. A wrong one is refused when it is registered, in words, and not when DMA fails.

use std::ops::Range;
use std::sync::Arc;

use kv_device::{DeviceRegion, Error, ErrorKind, Result};

use crate::synapse::{Mode, Session};
use crate::sys::DeviceFacts;

/// Bits that PyTorch's allocator sets in the handles that it gives out as pointers: the bucket of the allocation.
const HANDLE_BITS: u64 = 0b11 << 62;
/// With it, vLLM moves blocks while it runs.
const CONTIGUOUS_PA: &str = "VLLM_CONTIGUOUS_PA";

/// Where the device's memory is, and whether the engine around us moves its blocks.
#[derive(Debug)]
pub(super) struct Addresses {
    ranges: Vec<Range<u64>>,
    moves_blocks: bool,
}

impl Addresses {
    pub(super) fn new(facts: &DeviceFacts, mode: Mode) -> Self {
        let range = |base: u64| base..base.saturating_add(facts.dram_size);
        let bases = [facts.dram_base, facts.global_hbm_base];
        // Before 1.21 the second field is reserved, and zero.
        let ranges = bases.into_iter().enumerate().filter(|(index, base)| *index == 0 || *base != 0);
        let asked = std::env::var(CONTIGUOUS_PA).is_ok_and(|value| is_true(&value));
        Self {
            ranges: ranges.map(|(_, base)| range(base)).collect(),
            moves_blocks: asked && mode == Mode::Attached,
        }
    }

    /// Refuses what cannot be the engine's memory, or does not stay where it is.
    pub(super) fn check(&self, device: &Arc<Session>, regions: &[DeviceRegion]) -> Result<()> {
        let invalid = |message| Err(Error::new(ErrorKind::Invalid, device, message));
        if self.moves_blocks {
            return invalid(format!(
                "the engine moves its blocks while it runs ({CONTIGUOUS_PA} is set, which turns the online defragmenter on): block ids that it gave out name other blocks later; run vLLM with {CONTIGUOUS_PA}=false"
            ));
        }
        for (index, DeviceRegion { address, len }) in regions.iter().enumerate() {
            let region = format!("region {index} ({len} bytes at {address:#x})");
            if address & HANDLE_BITS != 0 {
                return invalid(format!(
                    "{region} is no address but a handle of PyTorch's allocator (bits 63:62 are set), whose memory may move: pass habana_frameworks.torch.utils.experimental._data_ptr(tensor) of the whole K or V tensor, not of a view, which also pins it"
                ));
            }
            let end = address.checked_add(*len);
            let inside =
                |range: &Range<u64>| *address >= range.start && end.is_some_and(|end| end <= range.end);
            if *len == 0 || !self.ranges.iter().any(inside) {
                let ranges: Vec<String> = self.ranges.iter().map(|range| format!("{range:#x?}")).collect();
                return invalid(format!(
                    "{region} is not in the device's memory, {}: pass device addresses of the device that this process has acquired",
                    ranges.join(" or ")
                ));
            }
        }
        Ok(())
    }
}

/// As vLLM reads its environment.
fn is_true(value: &str) -> bool {
    matches!(value.to_lowercase().as_str(), "1" | "true" | "y" | "yes" | "t" | "on")
}
