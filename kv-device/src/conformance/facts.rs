//! Checks of what a device says about itself, and of its staging.

use kv_memory::{BUFFER_ALIGNMENT, StagingPool};

use super::Engine;
use super::report::{Failure, ensure};
use super::scene::random;
use crate::Granularity;

pub(super) async fn device_says_what_it_is(engine: &dyn Engine) -> Result<(), Failure> {
    let device = engine.device();
    let info = device.info();
    ensure!(!info.kind.is_empty(), "info().kind is empty: it labels metrics");
    ensure!(!info.name.is_empty(), "info().name is empty");
    ensure!(!device.to_string().is_empty(), "the device displays as nothing: it stands in every error");
    let capabilities = device.capabilities();
    ensure!(capabilities.concurrency > 0, "a concurrency of 0 would move nothing");
    if let Granularity::Rows { min_bytes } = capabilities.granularity {
        ensure!(min_bytes > 0, "rows of at least 0 bytes: say AnyRun");
    }
    ensure!(
        capabilities == device.capabilities() && *info == *device.info(),
        "what a device is and can do changes between calls"
    );
    Ok(())
}

pub(super) async fn staging_is_memory(engine: &dyn Engine) -> Result<(), Failure> {
    let wanted = 3 * BUFFER_ALIGNMENT;
    let region = engine.device().allocate_staging(wanted)?;
    ensure!(region.len() >= wanted, "asked for {wanted} bytes, got {}", region.len());
    let address = region.base().as_ptr().addr();
    ensure!(
        address.is_multiple_of(BUFFER_ALIGNMENT),
        "staging at {address:#x} is not aligned to {BUFFER_ALIGNMENT}"
    );
    for byte in [address, address + region.len() - 1] {
        ensure!(
            engine.reaches(byte as u64) != Some(false),
            "the device does not reach staging at {byte:#x}: its copies pass through the processor"
        );
    }
    let pool = StagingPool::from_boxed(region, BUFFER_ALIGNMENT)?;
    let mut buffers = pool.acquire_many(pool.parts()).await;
    for (seed, buffer) in (0..).zip(&mut buffers) {
        let bytes = random(seed, buffer.len());
        buffer.copy_from_slice(&bytes);
    }
    for (seed, buffer) in (0..).zip(&buffers) {
        ensure!(
            buffer[..] == random(seed, buffer.len())[..],
            "part {seed} of the staging does not keep its bytes"
        );
    }
    Ok(())
}
