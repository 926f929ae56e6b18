//! Checks of who owns what, and how long: dropped futures, quiesce and close.

use std::time::Duration;

use super::Engine;
use super::movement::{plain, same, unchanged};
use super::report::{Failure, ensure};
use super::scene::{Running, Scene, poll_once, register};
use crate::ErrorKind;

/// The pool has one part: after the transfer has ended, the next buffer is the same memory, with what was gathered.
pub(super) async fn dropped_future_keeps_buffers_alive_in_gather(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 12, 1)?;
    let transfer = scene.transfer(&portion)?;
    let fence = engine.fence()?;
    let request = scene.request_after(&transfer, 1200, fence.fence()).await;
    let before = request.staging.to_vec();
    let mut gather: Running<'_> = scene.registered.gather(request);
    ensure!(poll_once(&mut gather).is_none(), "a gather was done before its fence was signalled");
    drop(gather);
    still_lent(&scene)?;
    fence.signal();
    scene.registered.quiesce().await?;
    let Some(staging) = scene.pool.try_acquire() else {
        return Err(Failure("quiesce returned, but a dropped gather still has its buffer".into()));
    };
    let expected = scene.gathered(&portion, &transfer, &scene.image()?, &before)?;
    same("buffer of a dropped gather, after quiesce", &staging, &expected)?;
    drop(staging);
    scene.close().await
}

pub(super) async fn dropped_future_keeps_buffers_alive_in_scatter(
    engine: &dyn Engine,
) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 13, 1)?;
    let image = scene.image()?;
    let transfer = scene.transfer(&portion)?;
    let fence = engine.fence()?;
    let request = scene.request_after(&transfer, 1300, fence.fence()).await;
    let before = request.staging.to_vec();
    let mut scatter: Running<'_> = scene.registered.scatter(request);
    ensure!(poll_once(&mut scatter).is_none(), "a scatter was done before its fence was signalled");
    drop(scatter);
    still_lent(&scene)?;
    unchanged(&scene, "behind an unsignalled fence", &image)?;
    fence.signal();
    scene.registered.quiesce().await?;
    ensure!(
        scene.pool.usage().bytes_lent == 0,
        "quiesce returned, but a dropped scatter still has its buffer"
    );
    let expected = scene.scattered(&portion, &transfer, &image, &before)?;
    unchanged(&scene, "a dropped scatter, after quiesce", &expected)?;
    scene.close().await
}

/// A transfer behind a fence holds its buffer, and `quiesce` waits for it.
fn still_lent(scene: &Scene) -> Result<(), Failure> {
    ensure!(scene.pool.usage().bytes_lent > 0, "a dropped future freed its buffer under the transfer");
    ensure!(
        poll_once(&mut scene.registered.quiesce()).is_none(),
        "quiesce did not wait for a transfer whose future was dropped"
    );
    Ok(())
}

pub(super) async fn close_waits_and_then_refuses(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 14, 2)?;
    let transfer = scene.transfer(&portion)?;
    let image = scene.image()?;
    let fence = engine.fence()?;
    let request = scene.request_after(&transfer, 1400, fence.fence()).await;
    let before = request.staging.to_vec();
    let mut gather: Running<'_> = scene.registered.gather(request);
    ensure!(poll_once(&mut gather).is_none(), "a gather was done before its fence was signalled");
    let mut close = scene.registered.close();
    ensure!(poll_once(&mut close).is_none(), "close did not wait for a transfer");
    refused(&scene, &transfer).await?;
    drop(close); // it stays closed
    refused(&scene, &transfer).await?;
    fence.signal();
    let (staging, outcome) = gather.await;
    outcome?;
    let expected = scene.gathered(&portion, &transfer, &image, &before)?;
    same("gathered while closing: staging", &staging, &expected)?;
    drop(staging);
    scene.registered.close().await?;
    scene.registered.close().await?;
    scene.registered.quiesce().await?;
    refused(&scene, &transfer).await?;
    unchanged(&scene, "after close", &image)?;
    scene.close().await
}

/// Transfers of a closed registration give the buffer back at once, unchanged.
async fn refused(scene: &Scene, transfer: &kv_format::Transfer) -> Result<(), Failure> {
    for gathers in [false, true] {
        // Scatters first: no fence of this check holds them up, so a device that lets them in is found at once.
        let request = scene.request(transfer, 1401).await;
        let before = request.staging.to_vec();
        let running = match gathers {
            true => scene.registered.gather(request),
            false => scene.registered.scatter(request),
        };
        let Ok((staging, outcome)) = tokio::time::timeout(Duration::from_secs(10), running).await else {
            return Err(Failure("a transfer after close did not return".into()));
        };
        let kind = outcome.err().map(|error| error.kind());
        ensure!(kind == Some(ErrorKind::Closed), "a transfer after close: expected Closed, found {kind:?}");
        same("staging of a transfer after close", &staging, &before)?;
    }
    Ok(())
}

/// Two registrations of the same regions: closing one leaves the other.
pub(super) async fn registrations_are_independent(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 15, 1)?;
    let regions = scene.registered.regions().to_vec();
    let expected: Vec<_> = scene.memory.iter().map(|part| part.region()).collect();
    ensure!(regions == expected, "regions() are {regions:?}, registered were {expected:?}");
    let second = register(&*engine.device(), regions)?;
    let transfer = scene.transfer(&portion)?;
    let request = scene.request(&transfer, 1500).await;
    let before = request.staging.to_vec();
    second.close().await?;
    let (staging, outcome) = scene.registered.gather(request).await;
    outcome?;
    let expected = scene.gathered(&portion, &transfer, &scene.image()?, &before)?;
    same("gathered after another registration was closed", &staging, &expected)?;
    drop(staging);
    scene.close().await
}
