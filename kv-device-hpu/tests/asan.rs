//! That AddressSanitizer sees through `dlopen`: four mistakes, each in a process of its own, which it must end. Only in the builds of
//! `cargo xtask test --only asan`; a run of the other tests under it proves something only because these fail.
#![cfg(kv_asan)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "registers memory, and makes mistakes with it")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use kv_device::emulation::{child, part};
use kv_device::{Device, TransferRequest};
use kv_device_hpu::synapse::Selector;
use kv_device_hpu::sys::{DRAM_TO_HOST, Status};
use kv_device_hpu::{Break, HpuDevice, HpuMemory, Sabotage};
use kv_format::{LayerPlan, SectionPlace, TensorKind, Transfer};
use kv_memory::StagingPool;
use support::rank::geometry;
use support::raw::Raw;
use support::{Fake, settled_leaks};

#[test]
fn each_mistake_is_reported_and_ends_its_process() {
    for (mistake, found) in [
        ("gather", None),
        ("gather, not waited for", Some("use-after-poison")),
        ("copy", None),
        ("copy, freed before", Some("heap-use-after-free")),
        ("copy, a byte more", Some("heap-buffer-overflow")),
        ("touch", Some("SEGV")),
    ] {
        let output = child("makes_a_mistake", mistake).unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), found.is_none(), "{mistake}: {text}");
        let report = text.split_once("ERROR: AddressSanitizer: ").map(|(_, report)| report);
        assert!(
            report.map(|report| report.starts_with(found.unwrap_or(" "))) == found.map(|_| true),
            "{mistake}: {text}"
        );
    }
}

#[test]
#[ignore = "the child of the test above"]
fn makes_a_mistake() {
    match part().as_str() {
        "gather" => gather(Sabotage::default()),
        "gather, not waited for" => gather(Sabotage::of(Break::SkipCompletion)),
        "copy" => copy(64, false),
        "copy, freed before" => copy(64, true),
        "copy, a byte more" => copy(65, false),
        "touch" => touch(),
        other => unreachable!("{other}"),
    }
}

/// A gather whose buffer is given back to its pool when the backend says so; the device has come past the copy at the end.
#[tokio::main(flavor = "current_thread")]
async fn gather(sabotage: Sabotage) {
    let fake = Fake::new();
    let mut options = fake.options();
    options.sabotage = sabotage;
    let device = HpuDevice::own(Selector::Any, &options).unwrap();
    let geometry = geometry(1);
    let allocate = |len: &u64| device.allocate(usize::try_from(*len).unwrap()).unwrap();
    let memory: Vec<HpuMemory> = geometry.regions.iter().map(allocate).collect();
    // SAFETY: the memory is dropped after the registration was closed.
    let registered = unsafe { device.register(memory.iter().map(HpuMemory::region).collect()) }.unwrap();
    let plan = LayerPlan::new(&geometry, &[2, 0], 0..256, 0..1).unwrap();
    let base = geometry.tensor(0, TensorKind::Key).unwrap();
    let place = SectionPlace { region: base.region, device: 0, staging: 0, kind: TensorKind::Key };
    let pool = StagingPool::from_boxed(device.allocate_staging(1 << 16).unwrap(), 1 << 16).unwrap();
    let request = TransferRequest {
        transfer: Transfer { plan: Arc::new(plan), sections: vec![place] },
        staging: pool.acquire().await,
        after: None,
        fence_timeout: Duration::ZERO,
    };
    let (staging, outcome) = registered.gather(request).await;
    outcome.unwrap();
    drop(staging);
    registered.close().await.unwrap();
    // The streams end with the device, after what they were given; both sides of the copy are there until then.
    drop((registered, device));
    drop((memory, pool));
    assert_eq!(settled_leaks(&fake), "");
}

/// A copy of device memory to heap memory of 64 bytes.
fn copy(bytes: usize, free: bool) {
    let raw = Raw::acquired(&Fake::new());
    let (stream, device) = (raw.stream(), raw.malloc(4096));
    let heap = vec![1_u8; 64].into_boxed_slice();
    let address = heap.as_ptr().expose_provenance() as u64;
    assert_eq!(raw.map(&heap, bytes), Status::SUCCESS);
    assert_eq!(raw.copy(stream, device, bytes as u64, address, DRAM_TO_HOST), Status::SUCCESS);
    let kept = (!free).then_some(heap);
    assert_eq!(raw.synchronize(stream), Status::SUCCESS);
    assert_eq!(kept.map(|heap| heap[0]), Some(0), "device memory of the emulation begins as zeroes");
}

/// A load by the host from where the emulated device has its memory.
fn touch() {
    let device = Raw::acquired(&Fake::new()).malloc(4096);
    let address = usize::try_from(device).unwrap();
    // SAFETY: no host has the address: this ends the process.
    let byte = unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() };
    unreachable!("read {byte}");
}
