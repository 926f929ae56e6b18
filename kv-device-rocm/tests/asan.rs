//! That AddressSanitizer sees through `dlopen`: four mistakes, each in a process of its own, which it must end. Only in the builds of
//! `cargo xtask test --only asan`; a run of the other tests under it proves something only because these fail.
#![cfg(kv_asan)]
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::ffi::{c_int, c_uint, c_void};

use kv_device::conformance::Engine as _;
use kv_device::emulation::{child, part};
use kv_device_rocm::Sabotage;
use scene::Scene;
use support::{FakeHip, check};

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
        "gather" => gather(None),
        "gather, not waited for" => gather(Some(Sabotage::SkipWait)),
        "copy" => copy(64, false),
        "copy, freed before" => copy(64, true),
        "copy, a byte more" => copy(65, false),
        "touch" => touch(),
        other => unreachable!("{other}"),
    }
}

/// A gather whose buffer is given back to its pool when the backend says so; the device has come past the copy at the end.
#[tokio::main(flavor = "current_thread")]
async fn gather(sabotage: Option<Sabotage>) {
    let fake = FakeHip::new(&[]);
    let options = fake.options();
    let engine = fake.engine_with(sabotage.into_iter().fold(options, |o, s| o.sabotaged(s))).unwrap();
    let scene = Scene::new(&engine, 2, 16, 1).unwrap();
    let (staging, outcome) = scene.registered.gather(scene.request(&scene.transfer(100), 0).await).await;
    outcome.unwrap();
    drop(staging);
    scene.registered.close().await.unwrap();
    // The streams end with the device, after what they were given.
    drop((scene.registered, engine));
}

/// An engine's copy of 4 KiB memory of the device to heap memory of 64 bytes that it has registered.
fn copy(bytes: usize, free: bool) {
    let fake = FakeHip::new(&[]);
    let engine = fake.engine();
    let memory = engine.allocate(4096).unwrap();
    let heap = vec![1_u8; 64].into_boxed_slice();
    let to = heap.as_ptr().cast_mut().cast::<c_void>();
    type Register = unsafe extern "C" fn(*mut c_void, usize, c_uint) -> c_int;
    type Copy = unsafe extern "C" fn(*mut c_void, u64, usize, c_int, *mut c_void) -> c_int;
    type Synchronize = unsafe extern "C" fn(*mut c_void) -> c_int;
    // SAFETY: the types are those of HIP's header; so it is below.
    let register = unsafe { fake.library.symbol::<Register>("hipHostRegister") }.unwrap();
    // SAFETY: as above.
    let copy = unsafe { fake.library.symbol::<Copy>("hipMemcpyAsync") }.unwrap();
    // SAFETY: as above.
    let synchronize = unsafe { fake.library.symbol::<Synchronize>("hipStreamSynchronize") }.unwrap();
    let stream = std::ptr::null_mut();
    // SAFETY: the heap memory is alive, and is as long as it is said to be in children that make no mistake; so it is below.
    check(unsafe { register(to, bytes, 0) }).unwrap();
    // SAFETY: as above.
    check(unsafe { copy(to, memory.region().address, bytes, 2, stream) }).unwrap();
    let kept = (!free).then_some(heap);
    // SAFETY: as above.
    check(unsafe { synchronize(stream) }).unwrap();
    assert_eq!(kept.map(|heap| heap[0]), Some(0xA5), "what fresh device memory is full of");
}

/// A load by the host from a device address.
fn touch() {
    let fake = FakeHip::new(&[]);
    let memory = fake.engine().allocate(4096).unwrap();
    let address = usize::try_from(memory.region().address).unwrap();
    // SAFETY: the address is mapped, without access: this ends the process.
    let byte = unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() };
    unreachable!("read {byte}");
}
