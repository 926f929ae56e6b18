//! What the emulated runtime says where one of the vendor's rules is broken: the vendor's code. The README names the rules by these tests.
#![expect(unsafe_code, reason = "breaks the rules of a C ABI")]

mod support;

use std::ptr;

use kv_device_hpu::sys::{DRAM_TO_HOST, HOST_TO_DRAM, Status};
use support::raw::{DEVICE, Raw};
use support::{Fake, keep};

/// Memory that is never freed, as the emulation remembers its address.
fn leaked(bytes: usize) -> &'static mut [u8] {
    let memory = Box::leak(vec![7; bytes].into_boxed_slice());
    keep(memory.as_ptr().addr());
    memory
}

#[test]
fn a_second_acquire_is_20() {
    let raw = Raw::acquired(&Fake::new());
    assert_eq!(raw.acquire(1), Status::DEVICE_ALREADY_ACQUIRED);
}

#[test]
fn a_module_of_another_process_is_8() {
    let locks = tempfile::tempdir().unwrap();
    let locked = format!("set locks {}", locks.path().display());
    let first = Raw::acquired(&Fake::with(&[&locked]));
    let other = Fake::with(&[&locked]).symbols();
    // SAFETY: no arguments.
    assert_eq!(unsafe { (other.initialize)() }, Status::SUCCESS);
    assert_eq!(Raw { symbols: other }.acquire(0), Status::NO_DEVICE_FOUND);
    // SAFETY: nothing uses the device.
    assert_eq!(unsafe { (first.symbols.device_release)(DEVICE) }, Status::SUCCESS);
    assert_eq!(Raw { symbols: other }.acquire(0), Status::SUCCESS);
}

#[test]
fn without_a_device_calls_are_26_and_a_release_is_8() {
    let raw = Raw::acquired(&Fake::new());
    let stream = raw.stream();
    // SAFETY: the engine's device is given back under its user.
    assert_eq!(unsafe { (raw.symbols.device_release)(DEVICE) }, Status::SUCCESS);
    assert_eq!(raw.synchronize(stream), Status::FAIL);
    // SAFETY: there is none to release.
    assert_eq!(unsafe { (raw.symbols.device_release)(DEVICE) }, Status::NO_DEVICE_FOUND);
    assert_eq!(raw.map(leaked(4096), 4096), Status::INVALID_ARGUMENT);
}

#[test]
fn ending_the_runtime_where_no_device_is_hangs() {
    let fake = Fake::with(&["set modules 0"]);
    let symbols = fake.symbols();
    // SAFETY: no arguments.
    assert_eq!(unsafe { (symbols.initialize)() }, Status::SUCCESS);
    // SAFETY: no arguments. The emulation returns, and says that the real one would not.
    assert_eq!(unsafe { (symbols.destroy)() }, Status::TIMEOUT);
    assert_eq!(fake.tell("get hung"), "yes");
}

#[test]
fn host_memory_that_is_not_mapped_is_34() {
    let raw = Raw::acquired(&Fake::new());
    let (stream, device, host) = (raw.stream(), raw.malloc(4096), leaked(4096));
    let address = host.as_ptr().addr() as u64;
    assert_eq!(raw.copy(stream, address, 4096, device, HOST_TO_DRAM), Status::MAPPING_NOT_FOUND);
    assert_eq!(raw.map(host, 4096), Status::SUCCESS);
    assert_eq!(raw.copy(stream, address, 4096, device, HOST_TO_DRAM), Status::SUCCESS);
    assert_eq!(raw.synchronize(stream), Status::SUCCESS);
}

#[test]
fn host_memory_across_two_mappings_is_34() {
    let raw = Raw::acquired(&Fake::new());
    let (stream, device, host) = (raw.stream(), raw.malloc(8192), leaked(8192));
    assert_eq!(raw.map(&host[..4096], 4096), Status::SUCCESS);
    assert_eq!(raw.map(&host[4096..], 4096), Status::SUCCESS);
    let address = host.as_ptr().addr() as u64;
    assert_eq!(raw.copy(stream, device, 8192, address, DRAM_TO_HOST), Status::MAPPING_NOT_FOUND);
    assert_eq!(raw.copy(stream, device, 100, address + 4096, DRAM_TO_HOST), Status::SUCCESS, "a part of one");
}

#[test]
fn mapping_again_counts_nothing_and_more_bytes_are_1() {
    let fake = Fake::new();
    let raw = Raw::acquired(&fake);
    let host = leaked(8192);
    assert_eq!(raw.map(host, 4096), Status::SUCCESS);
    assert_eq!(raw.map(host, 4096), Status::SUCCESS);
    assert_eq!(raw.map(host, 8192), Status::INVALID_ARGUMENT);
    assert_eq!(raw.unmap(host.as_ptr()), Status::SUCCESS);
    assert_eq!(fake.leaks(), "device 1", "two maps and one unmap: it is gone");
}

#[test]
fn unmapping_needs_the_exact_base() {
    let fake = Fake::new();
    let raw = Raw::acquired(&fake);
    let host = leaked(8192);
    assert_eq!(raw.map(host, 8192), Status::SUCCESS);
    assert_eq!(raw.unmap(host[4096..].as_ptr()), Status::FAIL);
    assert!(fake.leaks().contains("registered-memory 1 (8192 bytes)"), "{}", fake.leaks());
    assert_eq!(raw.unmap(leaked(64).as_ptr()), Status::SUCCESS, "of what it does not know");
}

#[test]
fn sizes_come_second() {
    let raw = Raw::acquired(&Fake::new());
    let (stream, device, host) = (raw.stream(), raw.malloc(4096), leaked(4096));
    assert_eq!(raw.map(host, 4096), Status::SUCCESS);
    let address = host.as_ptr().addr() as u64;
    assert_eq!(raw.copy(stream, address, device, 4096, HOST_TO_DRAM), Status::MAPPING_NOT_FOUND);
}

#[test]
fn a_null_list_is_44_and_a_zero_address_is_1() {
    let raw = Raw::acquired(&Fake::new());
    let (stream, device) = (raw.stream(), raw.malloc(4096));
    let call = raw.symbols.memcpy_async_multiple;
    let (one, none) = (1_u64, ptr::null());
    // SAFETY: two lists of one and a null pointer, which is refused.
    let status = unsafe { call(stream, &raw const one, none, &raw const one, HOST_TO_DRAM, 1) };
    assert_eq!(status, Status::NULL_POINTER);
    assert_eq!(raw.copy(stream, 0, 64, device, HOST_TO_DRAM), Status::INVALID_ARGUMENT);
    assert_eq!(raw.copy(stream, 0, 0, device, HOST_TO_DRAM), Status::SUCCESS, "of no bytes: skipped");
    assert_eq!(raw.copy(stream, 64, 64, device, 7), Status::INVALID_ARGUMENT);
}

#[test]
fn an_event_that_was_not_recorded_counts_as_reached() {
    let raw = Raw::acquired(&Fake::new());
    let event = raw.event();
    // SAFETY: the emulation checks handles.
    assert_eq!(unsafe { (raw.symbols.event_query)(event) }, Status::SUCCESS);
    // SAFETY: as above.
    assert_eq!(unsafe { (raw.symbols.event_synchronize)(event) }, Status::SUCCESS);
}

#[test]
fn pending_work_is_22_and_has_not_happened() {
    let raw = Raw::acquired(&Fake::new());
    let (stream, event, device, host) = (raw.stream(), raw.event(), raw.malloc(4096), leaked(4096));
    assert_eq!(raw.map(host, 4096), Status::SUCCESS);
    let address = host.as_ptr().addr() as u64;
    assert_eq!(raw.copy(stream, device, 4096, address, DRAM_TO_HOST), Status::SUCCESS);
    // SAFETY: the emulation checks handles.
    assert_eq!(unsafe { (raw.symbols.event_record)(event, stream) }, Status::SUCCESS);
    // SAFETY: as above.
    assert_eq!(unsafe { (raw.symbols.event_query)(event) }, Status::BUSY);
    assert_eq!(host[0], 7, "nobody has waited");
    // SAFETY: as above.
    assert_eq!(unsafe { (raw.symbols.event_synchronize)(event) }, Status::SUCCESS);
    assert_eq!(host[0], 0, "device memory of the emulation begins as zeroes");
}

#[test]
fn streams_have_no_order_but_by_events() {
    let fake = Fake::new();
    let raw = Raw::acquired(&fake);
    let (engine, ours, event) = (raw.stream(), raw.stream(), raw.event());
    let (device, host) = (raw.malloc(4096), leaked(8192));
    assert_eq!(raw.map(host, 8192), Status::SUCCESS);
    let address = host.as_ptr().addr() as u64;
    // The engine writes sevens, and we read without waiting.
    assert_eq!(raw.copy(engine, address, 4096, device, HOST_TO_DRAM), Status::SUCCESS);
    // SAFETY: the emulation checks handles.
    assert_eq!(unsafe { (raw.symbols.event_record)(event, engine) }, Status::SUCCESS);
    assert_eq!(raw.copy(ours, device, 4096, address + 4096, DRAM_TO_HOST), Status::SUCCESS);
    assert_eq!(raw.synchronize(ours), Status::SUCCESS);
    assert_eq!(host[4096], 0, "stale");
    // SAFETY: as above.
    assert_eq!(unsafe { (raw.symbols.stream_wait_event)(ours, event, 0) }, Status::SUCCESS);
    assert_eq!(
        fake.count("synStreamSynchronize"),
        1,
        "the wait itself waits for nothing: it is applied with later work"
    );
    assert_eq!(raw.copy(ours, device, 4096, address + 4096, DRAM_TO_HOST), Status::SUCCESS);
    assert_eq!(raw.synchronize(ours), Status::SUCCESS);
    assert_eq!(host[4096], 7);
}

#[test]
fn handles_of_nothing_are_1_and_33() {
    let raw = Raw::acquired(&Fake::new());
    let (stream, event) = (raw.stream(), raw.event());
    // SAFETY: nothing uses it.
    assert_eq!(unsafe { (raw.symbols.stream_destroy)(stream) }, Status::SUCCESS);
    assert_eq!(raw.synchronize(stream), Status::INVALID_ARGUMENT);
    // SAFETY: the emulation checks handles.
    assert_eq!(unsafe { (raw.symbols.event_record)(event, stream) }, Status::INVALID_ARGUMENT);
    // SAFETY: nothing uses it.
    assert_eq!(unsafe { (raw.symbols.event_destroy)(event) }, Status::SUCCESS);
    // SAFETY: the emulation checks handles.
    assert_eq!(unsafe { (raw.symbols.event_query)(event) }, Status::INVALID_EVENT_HANDLE);
}

#[test]
fn an_address_that_the_device_does_not_have_fails_the_device_31() {
    let raw = Raw::acquired(&Fake::new());
    let (stream, device, host) = (raw.stream(), raw.malloc(4096), leaked(4096));
    assert_eq!(raw.map(host, 4096), Status::SUCCESS);
    let (address, handle) = (host.as_ptr().addr() as u64, 1 << 63 | device);
    // The call has nothing against it: the hardware finds it.
    assert_eq!(raw.copy(stream, address, 4096, handle, HOST_TO_DRAM), Status::SUCCESS);
    assert_eq!(raw.synchronize(stream), Status::SYNAPSE_TERMINATED);
    assert_eq!(raw.copy(stream, address, 4096, device, HOST_TO_DRAM), Status::SYNAPSE_TERMINATED);
}
