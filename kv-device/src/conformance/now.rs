//! Checks of copies on the calling thread, for devices that make them; the others refuse them.

use super::Engine;
use super::layouts::{self, Layout};
use super::movement::{plain, same, unchanged};
use super::report::{Failure, ensure};
use super::scene::Scene;
use crate::{ErrorKind, Result};

/// They move what gather and scatter move; a transfer that leaves its buffer moves nothing.
pub(super) async fn copies_now_are_the_same_copies(engine: &dyn Engine) -> Result<(), Failure> {
    for Layout { name, geometry } in layouts::all()? {
        let scene = Scene::new(engine, &geometry, 21, 2)?;
        for (seed, portion) in (2100..).zip(&layouts::portions(&geometry)) {
            let what = format!("{name}, {portion:?}");
            let (transfer, image) = (scene.transfer(portion)?, scene.image()?);
            let mut staging = scene.request(&transfer, seed).await.staging;
            let before = staging.to_vec();
            if !scene.registered.copies_now() {
                unsupported(scene.registered.gather_now(&transfer, &mut staging))?;
                unsupported(scene.registered.scatter_now(&transfer, &staging))?;
                same(&what, &staging, &before)?;
                unchanged(&scene, &what, &image)?;
                continue;
            }
            let expected = scene.scattered(portion, &transfer, &image, &before)?;
            match scene.registered.scatter_now(&transfer, &staging) {
                Ok(()) => {}
                // Finer than the device claims to move.
                Err(error) if error.kind() == ErrorKind::Unsupported => continue,
                Err(error) => return Err(error.into()),
            }
            unchanged(&scene, &what, &expected)?;
            scene.write_image(&image)?;
            scene.registered.gather_now(&transfer, &mut staging)?;
            same(&what, &staging, &scene.gathered(portion, &transfer, &image, &before)?)?;

            let short = &mut staging[..1];
            let refused = [
                scene.registered.gather_now(&transfer, short).err().map(|error| error.kind()),
                scene.registered.scatter_now(&transfer, short).err().map(|error| error.kind()),
            ];
            ensure!(
                refused == [Some(ErrorKind::Invalid); 2],
                "{what}: a buffer of one byte: expected Invalid, found {refused:?}"
            );
            unchanged(&scene, &what, &image)?;
        }
        scene.close().await?;
    }
    Ok(())
}

pub(super) async fn copies_now_are_refused_when_closed(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 22, 1)?;
    let transfer = scene.transfer(&portion)?;
    let (image, mut staging) = (scene.image()?, scene.request(&transfer, 2200).await.staging);
    let before = staging.to_vec();
    scene.registered.close().await?;
    let wanted = if scene.registered.copies_now() { ErrorKind::Closed } else { ErrorKind::Unsupported };
    let refused = [
        scene.registered.gather_now(&transfer, &mut staging).err().map(|error| error.kind()),
        scene.registered.scatter_now(&transfer, &staging).err().map(|error| error.kind()),
    ];
    ensure!(refused == [Some(wanted); 2], "copies after close: expected {wanted:?}, found {refused:?}");
    same("staging of a copy after close", &staging, &before)?;
    unchanged(&scene, "a copy after close", &image)?;
    drop(staging);
    scene.close().await
}

fn unsupported(outcome: Result<()>) -> Result<(), Failure> {
    let kind = outcome.err().map(|error| error.kind());
    ensure!(
        kind == Some(ErrorKind::Unsupported),
        "a device that does not copy now: expected Unsupported, found {kind:?}"
    );
    Ok(())
}
