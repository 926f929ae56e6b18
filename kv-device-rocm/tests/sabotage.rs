//! Backends that are wrong on purpose: the conformance suite, or a named test, finds each of them. One for each row of the README's
//! table.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::os::unix::process::ExitStatusExt as _;

use kv_device::conformance;
use kv_device::emulation::{child, part};
use kv_device::{Error, Result};
use kv_device_rocm::Sabotage;
use scene::Scene;
use support::{ABORTED, FakeHip};

/// The checks that fail; `Err` if the device cannot even be opened.
async fn failures(sabotage: Option<Sabotage>, commands: &[&str]) -> Result<Vec<&'static str>> {
    let fake = FakeHip::new(commands);
    let options = match sabotage {
        Some(sabotage) => fake.options().sabotaged(sabotage),
        None => fake.options(),
    };
    let engine = fake.engine_with(options)?;
    let report = conformance::run(&engine).await;
    Ok(report.failures().map(|outcome| outcome.check).collect())
}

async fn is_found(sabotage: Sabotage, commands: &[&str], by: &[&str]) {
    assert_eq!(failures(None, commands).await.unwrap(), [""; 0], "it passes without");
    let failed = failures(Some(sabotage), commands).await.unwrap();
    for check in by {
        assert!(failed.contains(check), "{sabotage:?}: expected {check} to fail, found {failed:?}");
    }
}

const MOVES: [&str; 2] = ["gather_moves_every_layout", "scatter_moves_every_layout"];

#[tokio::test]
async fn skip_set_device() {
    is_found(Sabotage::SkipSetDevice, &[], &MOVES).await;
}

#[tokio::test]
async fn drop_fence() {
    let checks = ["gather_waits_for_its_fence", "scatter_waits_for_its_fence", "native_fences_are_awaited"];
    is_found(Sabotage::DropFence, &[], &checks).await;
}

#[tokio::test]
async fn skip_wait() {
    is_found(Sabotage::SkipWait, &[], &MOVES).await;
}

#[tokio::test]
async fn copy_outside() {
    is_found(Sabotage::CopyOutside, &[], &MOVES).await;
}

#[tokio::test]
async fn pageable_tables() {
    is_found(Sabotage::PageableTables, &[], &MOVES).await;
}

#[tokio::test]
async fn pageable_staging() {
    is_found(Sabotage::PageableStaging, &[], &["staging_is_memory"]).await;
}

#[tokio::test]
async fn new_memory_kinds() {
    is_found(Sabotage::NewMemoryKinds, &["set hip-version 50200000"], &MOVES).await;
}

#[tokio::test]
async fn old_properties() {
    let commands = ["set arch gfx90a"];
    assert_eq!(failures(None, &commands).await.unwrap(), [""; 0]);
    let error: Error = failures(Some(Sabotage::OldProperties), &commands).await.unwrap_err();
    assert!(error.to_string().contains("names no instruction set"), "{error}");
}

/// Opens a device of which the compiler of HIP 5.2 does not know the processor, in a process of its own.
#[test]
fn ask_blindly() {
    let asked = |part: &str| child("opens_an_unknown_processor", part).unwrap();
    let refused = asked("refuse");
    assert!(refused.status.success(), "{}", String::from_utf8_lossy(&refused.stderr));
    assert_eq!(asked("ask").status.signal(), Some(ABORTED), "the runtime ends the process");
}

#[test]
#[ignore = "the child of `ask_blindly`"]
fn opens_an_unknown_processor() {
    let fake = FakeHip::new(&["set arch gfx1201", "set hip-version 50200000"]);
    let options = match part().as_str() {
        "ask" => fake.options().sabotaged(Sabotage::AskBlindly),
        _ => fake.options(),
    };
    let error = fake.engine_with(options).map(drop).unwrap_err();
    assert_eq!(error.kind(), kv_device::ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("does not know gfx1201: expected one of gfx908"), "{error}");
}

#[tokio::test]
async fn batch_attributes() {
    is_found(Sabotage::BatchAttributes, &["set hip-version 70200000"], &MOVES).await;
}

#[tokio::test]
async fn use_after_destroy() {
    is_found(Sabotage::UseAfterDestroy, &[], &MOVES).await;
}

#[tokio::test]
async fn skip_owner_check() {
    is_found(Sabotage::SkipOwnerCheck, &[], &["unknown_regions_are_refused"]).await;
}

/// A gather of more pieces than a batch may have, with gaps of which no two neighbours are alike.
async fn many_pieces(sabotage: Option<Sabotage>) -> Result<()> {
    let fake = FakeHip::new(&[]);
    let options = match sabotage {
        Some(sabotage) => fake.options().sabotaged(sabotage),
        None => fake.options(),
    };
    let engine = fake.engine_with(options)?;
    let scene = Scene::new(&engine, 10, 128, 1)?;
    let mut transfer = scene.transfer(1);
    let first = transfer.sections[0];
    let bytes = transfer.plan.section_bytes(first.kind);
    let place =
        |index: u64| kv_format::SectionPlace { staging: index * (bytes + 32) + index % 2 * 16, ..first };
    transfer.sections = (0..8200).map(place).collect();
    let (staging, outcome) = scene.registered.gather(scene.request(&transfer, 0).await).await;
    if outcome.is_ok() {
        let section = |index: u64| {
            let start = usize::try_from(place(index).staging).unwrap();
            staging[start..start + usize::try_from(bytes).unwrap()].to_vec()
        };
        assert!(section(0) == section(8199) && section(0).iter().any(|byte| *byte != 0));
        assert_eq!(
            fake.tell("counts").lines().find(|line| line.starts_with("hipMemcpyBatch")),
            Some("hipMemcpyBatchAsync 2")
        );
    }
    drop(staging);
    outcome.and(scene.registered.close().await)
}

#[tokio::test]
async fn one_batch() {
    many_pieces(None).await.unwrap();
    let error = many_pieces(Some(Sabotage::OneBatch)).await.unwrap_err();
    assert_eq!(error.kind(), kv_device::ErrorKind::DeviceLost, "{error}");
    assert!(error.to_string().contains("700"), "{error}");
}
