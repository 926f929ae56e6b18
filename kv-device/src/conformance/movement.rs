//! Checks that exactly the right bytes move, against the definition of the paging layout.

use kv_format::{Geometry, TensorKind, Transfer};

use super::Engine;
use super::layouts::{self, Layout, Portion};
use super::report::{Failure, ensure};
use super::scene::Scene;
use crate::{DeviceCapabilities, Error, ErrorKind, Granularity};

/// Whether a transfer succeeded: one that is finer than the device claims to move may be refused as a whole.
fn moved(
    outcome: Result<(), Error>,
    transfer: &Transfer,
    capabilities: DeviceCapabilities,
) -> Result<bool, Failure> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Unsupported && too_fine(transfer, capabilities) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn too_fine(transfer: &Transfer, capabilities: DeviceCapabilities) -> bool {
    let Granularity::Rows { min_bytes } = capabilities.granularity else {
        return false;
    };
    let mut nests = TensorKind::BOTH.iter().flat_map(|kind| transfer.plan.nests(*kind));
    nests.any(|nest| nest.run_bytes < min_bytes)
}

/// Every portion of every layout, with its name for messages.
fn cases() -> Result<Vec<(Layout, Vec<Portion>)>, Failure> {
    let with_portions = |layout: Layout| {
        let portions = layouts::portions(&layout.geometry);
        (layout, portions)
    };
    Ok(layouts::all()?.into_iter().map(with_portions).collect())
}

/// The first layout, for checks that are not about layouts: every device must move it.
pub(super) fn plain() -> Result<(Geometry, Portion), Failure> {
    let Some(Layout { geometry, .. }) = layouts::all()?.into_iter().next() else {
        return Err(Failure("the suite has no layouts".into()));
    };
    let portions = layouts::portions(&geometry).into_iter().next();
    let portion = portions.ok_or_else(|| Failure("the suite has no portions".into()))?;
    Ok((geometry, portion))
}

pub(super) async fn gather_moves_every_layout(engine: &dyn Engine) -> Result<(), Failure> {
    for (Layout { name, geometry }, portions) in cases()? {
        let scene = Scene::new(engine, &geometry, 1, 1)?;
        let image = scene.image()?;
        for (seed, portion) in (100..).zip(&portions) {
            let transfer = scene.transfer(portion)?;
            let request = scene.request(&transfer, seed).await;
            let before = request.staging.to_vec();
            let (staging, outcome) = scene.registered.gather(request).await;
            let expected = match moved(outcome, &transfer, engine.device().capabilities())? {
                true => scene.gathered(portion, &transfer, &image, &before)?,
                false => before,
            };
            same(&format!("{name}, {portion:?}: staging"), &staging, &expected)?;
            unchanged(&scene, &format!("{name}, {portion:?}"), &image)?;
        }
        scene.close().await?;
    }
    Ok(())
}

pub(super) async fn scatter_moves_every_layout(engine: &dyn Engine) -> Result<(), Failure> {
    for (Layout { name, geometry }, portions) in cases()? {
        let scene = Scene::new(engine, &geometry, 2, 1)?;
        for (seed, portion) in (200..).zip(&portions) {
            let image = scene.image()?;
            let transfer = scene.transfer(portion)?;
            let request = scene.request(&transfer, seed).await;
            let before = request.staging.to_vec();
            let (staging, outcome) = scene.registered.scatter(request).await;
            let expected = match moved(outcome, &transfer, engine.device().capabilities())? {
                true => scene.scattered(portion, &transfer, &image, &before)?,
                false => image,
            };
            same(&format!("{name}, {portion:?}: staging"), &staging, &before)?;
            unchanged(&scene, &format!("{name}, {portion:?}"), &expected)?;
        }
        scene.close().await?;
    }
    Ok(())
}

/// A gathered buffer scattered to other blocks, and gathered from there, is the same.
pub(super) async fn round_trip_between_layouts(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 3, 1)?;
    let mut elsewhere = portion.clone();
    elsewhere.blocks = vec![2, 1, 0, 4];
    let (there, back) = (scene.transfer(&portion)?, scene.transfer(&elsewhere)?);
    let (staging, outcome) = scene.registered.gather(scene.request(&there, 300).await).await;
    outcome?;
    let first = staging.to_vec();
    drop(staging);
    let mut request = scene.request(&back, 301).await;
    request.staging.copy_from_slice(&first);
    let (staging, outcome) = scene.registered.scatter(request).await;
    outcome?;
    drop(staging);
    let mut request = scene.request(&back, 302).await;
    request.staging.copy_from_slice(&first); // the gaps between the sections
    for place in &back.sections {
        let from = usize::try_from(place.staging)?;
        let to = from + usize::try_from(back.plan.section_bytes(place.kind))?;
        request.staging[from..to].fill(0);
    }
    let (staging, outcome) = scene.registered.gather(request).await;
    outcome?;
    same("gathered again from other blocks", &staging, &first)?;
    drop(staging);
    scene.close().await
}

pub(super) async fn empty_transfer_moves_nothing(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 4, 1)?;
    let image = scene.image()?;
    let mut transfer = scene.transfer(&portion)?;
    transfer.sections.clear();
    for gathers in [true, false] {
        let request = scene.request(&transfer, 400).await;
        let before = request.staging.to_vec();
        let (staging, outcome) = match gathers {
            true => scene.registered.gather(request).await,
            false => scene.registered.scatter(request).await,
        };
        outcome?;
        same("staging of a transfer without sections", &staging, &before)?;
    }
    unchanged(&scene, "a transfer without sections", &image)?;
    scene.close().await
}

/// Compares, and names the first difference.
pub(super) fn same(what: &str, found: &[u8], expected: &[u8]) -> Result<(), Failure> {
    ensure!(found.len() == expected.len(), "{what}: {} bytes, expected {}", found.len(), expected.len());
    let mut bytes = found.iter().zip(expected);
    if let Some(at) = bytes.position(|(found, expected)| found != expected) {
        let wrong = found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
        return Err(Failure(format!(
            "{what}: byte {at} is {:#04x}, expected {:#04x}; {wrong} bytes differ",
            found[at], expected[at]
        )));
    }
    Ok(())
}

/// Compares the engine's memory with `expected`.
pub(super) fn unchanged(scene: &Scene, what: &str, expected: &[Vec<u8>]) -> Result<(), Failure> {
    for (region, (found, expected)) in scene.image()?.iter().zip(expected).enumerate() {
        same(&format!("{what}: region {region}"), found, expected)?;
    }
    Ok(())
}
