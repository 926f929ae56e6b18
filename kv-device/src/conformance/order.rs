//! Checks of transfers beside each other: order, and queues that are full.

use std::sync::{Arc, Mutex, PoisonError};

use super::Engine;
use super::movement::{plain, unchanged};
use super::probe::Probe;
use super::report::{Failure, ensure};
use super::scene::{Running, Scene, join_all, poll_once};

/// Transfers of one direction run in the order in which they were first polled: scatters to one place leave the last one's bytes,
/// and fences are awaited in order.
pub(super) async fn one_direction_keeps_its_order(engine: &dyn Engine) -> Result<(), Failure> {
    const COUNT: usize = 8;
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 16, COUNT)?;
    let image = scene.image()?;
    let transfer = scene.transfer(&portion)?;
    let awaited = Arc::new(Mutex::new(Vec::new()));
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut last = Vec::new();
    for (index, seed) in (0..COUNT).zip(1600..) {
        let awaited = Arc::clone(&awaited);
        let probe = Probe::new(move || {
            awaited.lock().unwrap_or_else(PoisonError::into_inner).push(index);
            Ok(true)
        });
        let request = scene.request_after(&transfer, seed, probe).await;
        last = request.staging.to_vec();
        let mut scatter = scene.registered.scatter(request);
        match poll_once(&mut scatter) {
            Some(done) => running.push(Box::pin(std::future::ready(done))),
            None => running.push(scatter),
        }
    }
    running.reverse(); // the order in which results are awaited does not matter
    for (staging, outcome) in join_all(running).await {
        outcome?;
        drop(staging);
    }
    let order = awaited.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(
        order == (0..COUNT).collect::<Vec<_>>(),
        "fences of one direction were awaited in the order {order:?}"
    );
    let expected = scene.scattered(&portion, &transfer, &image, &last)?;
    unchanged(&scene, "scatters to one place, in order", &expected)?;
    scene.close().await
}

/// More transfers than any queue has room for, of both directions, behind one fence each; some futures are dropped.
pub(super) async fn a_full_queue_makes_progress(engine: &dyn Engine) -> Result<(), Failure> {
    const BEHIND_FENCE: usize = 2;
    let (geometry, mut portion) = plain()?;
    portion.tokens = 0..4; // many and small
    let count = 96 + 4 * engine.device().capabilities().concurrency;
    let scene = Scene::with_pool(engine, &geometry, 17, 2 * count, 4096)?;
    let image = scene.image()?;
    let transfer = scene.transfer(&portion)?;
    // Gathers read other tokens than scatters write: both run at once.
    portion.tokens = 4..8;
    let gathered = scene.transfer(&portion)?;
    portion.tokens = 0..4;
    let mut running: Vec<Running<'_>> = Vec::new();
    let fences = [engine.fence()?, engine.fence()?];
    let mut staged = Vec::new();
    for index in 0..count {
        for (fence, gathers) in fences.iter().zip([true, false]) {
            // Every scatter brings the same bytes, so it does not matter which of them were dropped before they began.
            let transfer = if gathers { &gathered } else { &transfer };
            let request = match index < BEHIND_FENCE {
                true => scene.request_after(transfer, 1700, fence.fence()).await,
                false => scene.request(transfer, 1700).await,
            };
            staged = request.staging.to_vec();
            running.push(match gathers {
                true => scene.registered.gather(request),
                false => scene.registered.scatter(request),
            });
        }
    }
    for transfer in &mut running {
        ensure!(
            poll_once(transfer).is_none(),
            "a transfer overtook one of its direction that waits for its fence"
        );
    }
    let mut index = 0;
    running.retain(|_| {
        index += 1;
        index % 7 != 0
    });
    for fence in &fences {
        fence.signal();
    }
    for (staging, outcome) in join_all(running).await {
        outcome?;
        drop(staging);
    }
    scene.registered.quiesce().await?;
    let lent = scene.pool.usage().bytes_lent;
    ensure!(lent == 0, "quiesce returned, but transfers still have {lent} bytes of staging");
    let expected = scene.scattered(&portion, &transfer, &image, &staged)?;
    unchanged(&scene, "after all transfers", &expected)?;
    scene.close().await
}
