//! Checks that a transfer waits for its fence, and moves nothing if the fence is not reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Engine;
use super::movement::{plain, same, unchanged};
use super::probe::Probe;
use super::report::{Failure, ensure};
use super::scene::{Running, Scene, poll_once, random};
use crate::{Error, ErrorKind, Fence};

/// The engine writes inside the wait: a gather that did not wait has the old bytes.
pub(super) async fn gather_waits_for_its_fence(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 6, 1)?;
    let transfer = scene.transfer(&portion)?;
    let written = scramble(&scene.image()?, 60);
    let (memory, bytes) = (scene.memory.clone(), written.clone());
    let probe = Probe::new(move || {
        for (part, bytes) in memory.iter().zip(&bytes) {
            part.write(0, bytes)?;
        }
        Ok(true)
    });
    let request = scene.request_after(&transfer, 600, as_fence(&probe)).await;
    let before = request.staging.to_vec();
    let (staging, outcome) = scene.registered.gather(request).await;
    outcome?;
    ensure!(probe.was_awaited(), "the gather did not wait for its fence");
    let expected = scene.gathered(&portion, &transfer, &written, &before)?;
    same("gathered before the fence was reached: staging", &staging, &expected)?;
    drop(staging);
    scene.close().await
}

/// The engine looks inside the wait: a scatter that did not wait may have moved.
pub(super) async fn scatter_waits_for_its_fence(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 7, 1)?;
    let transfer = scene.transfer(&portion)?;
    let image = scene.image()?;
    let untouched = Arc::new(AtomicBool::new(false));
    let (memory, bytes, verdict) = (scene.memory.clone(), image.clone(), Arc::clone(&untouched));
    let probe = Probe::new(move || {
        let mut same = true;
        for (part, bytes) in memory.iter().zip(&bytes) {
            let mut found = vec![0; bytes.len()];
            part.read(0, &mut found)?;
            same &= found == *bytes;
        }
        verdict.store(same, Ordering::Release);
        Ok(true)
    });
    let request = scene.request_after(&transfer, 700, as_fence(&probe)).await;
    let before = request.staging.to_vec();
    let (staging, outcome) = scene.registered.scatter(request).await;
    outcome?;
    drop(staging);
    ensure!(probe.was_awaited(), "the scatter did not wait for its fence");
    ensure!(untouched.load(Ordering::Acquire), "the scatter moved before its fence was reached");
    let expected = scene.scattered(&portion, &transfer, &image, &before)?;
    unchanged(&scene, "after the fence was reached", &expected)?;
    scene.close().await
}

/// The device's own fences: the engine writes, then signals.
pub(super) async fn native_fences_are_awaited(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let (scene, other) = (Scene::new(engine, &geometry, 8, 1)?, Scene::new(engine, &geometry, 9, 1)?);
    let transfer = scene.transfer(&portion)?;
    let written = scramble(&scene.image()?, 80);
    let fence = engine.fence()?;
    let request = scene.request_after(&transfer, 800, fence.fence()).await;
    let before = request.staging.to_vec();
    let mut gather: Running<'_> = scene.registered.gather(request);
    ensure!(poll_once(&mut gather).is_none(), "a gather was done before its fence was signalled");
    // A transfer of the other direction gives the device time to do the wrong thing, without a clock.
    let (staging, outcome) = other.registered.scatter(other.request(&transfer, 801).await).await;
    outcome?;
    drop(staging);
    ensure!(poll_once(&mut gather).is_none(), "a gather was done before its fence was signalled");
    scene.write_image(&written)?;
    fence.signal();
    let (staging, outcome) = gather.await;
    outcome?;
    let expected = scene.gathered(&portion, &transfer, &written, &before)?;
    same("gathered before the fence was signalled: staging", &staging, &expected)?;
    drop(staging);
    other.close().await?;
    scene.close().await
}

pub(super) async fn fence_timeout_moves_nothing(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 10, 1)?;
    let fence = engine.fence()?;
    nothing_moves(&scene, &portion, &fence.fence(), &[ErrorKind::Timeout]).await?;
    fence.signal();
    // The queue goes on.
    let transfer = scene.transfer(&portion)?;
    let request = scene.request_after(&transfer, 1000, fence.fence()).await;
    let (staging, outcome) = scene.registered.gather(request).await;
    outcome?;
    drop(staging);
    scene.close().await
}

pub(super) async fn failed_fence_moves_nothing(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 11, 1)?;
    /// An engine whose device is gone.
    #[derive(Debug)]
    struct Lost;
    impl Fence for Lost {
        fn wait(&self, _: Duration) -> crate::Result<bool> {
            Err(Error::new(ErrorKind::DeviceLost, "conformance", "the engine's device is gone"))
        }
    }
    let lost: Arc<dyn Fence> = Arc::new(Lost);
    nothing_moves(&scene, &portion, &lost, &[ErrorKind::DeviceLost, ErrorKind::Vendor]).await?;
    scene.close().await
}

/// A transfer of each direction behind a fence that is not reached: the buffer comes back as it was.
async fn nothing_moves(
    scene: &Scene,
    portion: &super::layouts::Portion,
    fence: &Arc<dyn Fence>,
    expected: &[ErrorKind],
) -> Result<(), Failure> {
    let transfer = scene.transfer(portion)?;
    let image = scene.image()?;
    for gathers in [true, false] {
        let mut request = scene.request_after(&transfer, 900, Arc::clone(fence)).await;
        request.fence_timeout = Duration::from_millis(1);
        let before = request.staging.to_vec();
        let (staging, outcome) = match gathers {
            true => scene.registered.gather(request).await,
            false => scene.registered.scatter(request).await,
        };
        let kind = outcome.err().map(|error| error.kind());
        ensure!(
            kind.is_some_and(|kind| expected.contains(&kind)),
            "a fence that is not reached: expected one of {expected:?}, found {kind:?}"
        );
        same("staging behind a fence that is not reached", &staging, &before)?;
    }
    unchanged(scene, "behind a fence that is not reached", &image)
}

fn as_fence(probe: &Arc<Probe>) -> Arc<dyn Fence> {
    let probe: Arc<Probe> = Arc::clone(probe);
    probe
}

/// Other bytes of the same lengths.
fn scramble(image: &[Vec<u8>], seed: u64) -> Vec<Vec<u8>> {
    let regions = (seed..).zip(image);
    regions.map(|(seed, bytes)| random(seed, bytes.len())).collect()
}
