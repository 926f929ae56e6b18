//! Checks of what a device must refuse, and that it then moves nothing.

use kv_format::Transfer;

use super::Engine;
use super::movement::{plain, same, unchanged};
use super::report::{Failure, ensure};
use super::scene::{Scene, register};
use crate::{DeviceRegion, ErrorKind};

pub(super) async fn out_of_bounds_is_invalid(engine: &dyn Engine) -> Result<(), Failure> {
    let (geometry, portion) = plain()?;
    let scene = Scene::new(engine, &geometry, 5, 1)?;
    let image = scene.image()?;
    let good = scene.transfer(&portion)?;
    let len = usize::try_from(scene.memory[0].region().len)?;
    // The wrong section is the last one, so that a device which checks while it moves has moved the others.
    let spoil = |change: &dyn Fn(&mut Transfer)| {
        let mut transfer = good.clone();
        change(&mut transfer);
        transfer
    };
    let last = good.sections.len() - 1;
    let staging_len = scene.pool.part_bytes() as u64;
    let cases = [
        ("a region that is not registered", spoil(&|t| t.sections[last].region = u32::MAX)),
        ("a tensor behind its region", spoil(&|t| t.sections[last].device = len as u64)),
        ("a tensor that ends behind its region", spoil(&|t| t.sections[last].device += 4096)),
        ("an offset that overflows", spoil(&|t| t.sections[last].device = u64::MAX - 8)),
        ("a section behind the staging buffer", spoil(&|t| t.sections[last].staging = staging_len)),
        (
            "a section that ends behind the staging buffer",
            spoil(&|t| {
                t.sections[last].staging = staging_len - t.plan.section_bytes(t.sections[last].kind) + 1;
            }),
        ),
        ("a staging offset that overflows", spoil(&|t| t.sections[last].staging = u64::MAX - 8)),
    ];
    for (what, transfer) in &cases {
        for gathers in [true, false] {
            let request = scene.request(transfer, 500).await;
            let before = request.staging.to_vec();
            let (staging, outcome) = match gathers {
                true => scene.registered.gather(request).await,
                false => scene.registered.scatter(request).await,
            };
            let kind = outcome.err().map(|error| error.kind());
            ensure!(kind == Some(ErrorKind::Invalid), "{what}: expected Invalid, found {kind:?}");
            same(&format!("{what}: staging"), &staging, &before)?;
            unchanged(&scene, what, &image)?;
        }
    }
    let mut request = scene.request(&good, 501).await;
    request.staging.set_len(64)?;
    let (staging, outcome) = scene.registered.gather(request).await;
    let kind = outcome.err().map(|error| error.kind());
    ensure!(
        kind == Some(ErrorKind::Invalid) && staging.len() == 64,
        "a staging buffer of 64 bytes: expected Invalid, found {kind:?}"
    );
    drop(staging);
    scene.close().await
}

pub(super) async fn unknown_regions_are_refused(engine: &dyn Engine) -> Result<(), Failure> {
    let Some(foreign) = engine.foreign_region() else {
        return Ok(());
    };
    let memory = engine.allocate(1 << 16)?;
    let region = memory.region();
    let cases = [
        ("memory that is not the device's", foreign),
        ("a region that ends behind its allocation", DeviceRegion { len: region.len + (64 << 20), ..region }),
        ("a region that wraps around", DeviceRegion { len: u64::MAX, ..region }),
    ];
    let device = engine.device();
    for (what, wrong) in cases {
        match register(&*device, vec![region, wrong]) {
            Ok(_) => return Err(Failure(format!("{what} was accepted: {wrong:?}"))),
            Err(error) => {
                let kind = error.kind();
                ensure!(kind == ErrorKind::Invalid, "{what}: expected Invalid, found {kind:?}");
                ensure!(
                    error.to_string().contains("region 1"),
                    "{what}: the message must name region 1, the second: {error}"
                );
            }
        }
    }
    Ok(())
}
