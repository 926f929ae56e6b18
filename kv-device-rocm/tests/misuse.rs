//! What the vendor's rules forbid gets the vendor's codes from the emulated runtime: one test for each row of the README's table.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod support;

use std::ffi::{c_int, c_uint};
use std::os::unix::process::ExitStatusExt as _;

use kv_device::emulation::{child, own_copy_without, part};
use support::{ABORTED, FakeHip, fake_file};

/// A number that C takes for a pointer, a size, or a handle.
type Word = usize;

/// Calls by name.
struct Raw(FakeHip);

impl Raw {
    fn new(commands: &[&str]) -> Self {
        Self(FakeHip::new(commands))
    }

    fn call2(&self, symbol: &str, a: Word, b: Word) -> c_int {
        self.call(symbol, [a, b, 0, 0, 0, 0, 0, 0, 0])
    }

    /// All of the functions that are called here take words and small integers in registers and on the stack as words.
    fn call(&self, symbol: &str, words: [Word; 9]) -> c_int {
        type Function = unsafe extern "C" fn(Word, Word, Word, Word, Word, Word, Word, Word, Word) -> c_int;
        // SAFETY: on x86-64 and AArch64 a function takes its arguments from the same places whether it is passed more than it has; the
        // functions of the emulated runtime check their values.
        let function = unsafe { self.0.library.symbol::<Function>(symbol) }.unwrap();
        let [a, b, c, d, e, f, g, h, i] = words;
        // SAFETY: as above; pointers are of values that outlive the call.
        unsafe { function(a, b, c, d, e, f, g, h, i) }
    }

    /// A call whose result goes where its first argument points.
    fn made(&self, symbol: &str, a: Word, b: Word) -> Word {
        let mut made: Word = 0;
        assert_eq!(
            self.call(symbol, [(&raw mut made).expose_provenance(), a, b, 0, 0, 0, 0, 0, 0]),
            0,
            "{symbol}"
        );
        made
    }

    fn malloc(&self, bytes: Word) -> Word {
        self.made("hipMalloc", bytes, 0)
    }

    fn pinned(&self, bytes: Word) -> Word {
        self.made("hipHostMalloc", bytes, 0)
    }

    fn stream(&self) -> Word {
        self.made("hipStreamCreateWithFlags", 1, 0)
    }

    fn copy(&self, to: Word, from: Word, bytes: Word, kind: Word, stream: Word) -> c_int {
        self.call("hipMemcpyAsync", [to, from, bytes, kind, stream, 0, 0, 0, 0])
    }

    fn byte(&self, address: Word) -> u8 {
        let mut byte = 0_u8;
        let to = (&raw mut byte).expose_provenance();
        assert_eq!(self.call("hipMemcpy", [to, address, 1, 4, 0, 0, 0, 0, 0]), 0);
        byte
    }
}

const D2H: Word = 2;

#[test]
fn a_compiler_of_5_x_that_does_not_know_a_processor_ends_the_process() {
    for (version, signal) in [("50200000", Some(ABORTED)), ("60300000", None)] {
        let child = child("compiles_for_an_unknown_processor", version).unwrap();
        assert_eq!(child.status.signal(), signal, "{version}");
        assert_eq!(child.status.success(), signal.is_none(), "{version}: {child:?}");
    }
}

#[test]
#[ignore = "the child of the test above"]
fn compiles_for_an_unknown_processor() {
    let hip = Raw::new(&[&format!("set hip-version {}", part())]);
    let program = hip.made("hiprtcCreateProgram", c"".as_ptr().expose_provenance(), 0);
    let option = c"--offload-arch=gfx1201".as_ptr();
    let options = (&raw const option).expose_provenance();
    let code = hip.call("hiprtcCompileProgram", [program, 1, options, 0, 0, 0, 0, 0, 0]);
    assert_eq!(code, 6, "HIPRTC_ERROR_COMPILATION");
}

#[test]
fn the_current_device_belongs_to_the_thread_and_handles_to_a_device() {
    let hip = Raw::new(&[]);
    let stream = hip.stream();
    assert_eq!(hip.call2("hipSetDevice", 1, 0), 0);
    let event = hip.made("hipEventCreateWithFlags", 0, 0);
    assert_eq!(hip.call2("hipEventRecord", event, stream), 400, "hipErrorInvalidHandle");
    let current = || hip.made("hipGetDevice", 0, 0) & 0xffff_ffff;
    assert_eq!(current(), 1);
    let file = &hip.0;
    let other = std::thread::scope(|scope| {
        scope.spawn(|| Raw(file.clone()).made("hipGetDevice", 0, 0) & 0xffff_ffff).join().unwrap()
    });
    assert_eq!(other, 0, "a new thread begins with device 0");
    assert_eq!(hip.call2("hipSetDevice", 2, 0), 101, "hipErrorInvalidDevice");
}

#[test]
fn only_an_event_orders_two_streams() {
    let hip = Raw::new(&[]);
    let (memory, pinned, engine, ours) = (hip.malloc(64), hip.pinned(64), hip.stream(), hip.stream());
    let event = hip.made("hipEventCreateWithFlags", 0, 0);
    for (waits, expected) in [(false, 0xA5), (true, 7)] {
        assert_eq!(hip.call("hipMemsetAsync", [memory, 7, 64, engine, 0, 0, 0, 0, 0]), 0);
        assert_eq!(hip.call2("hipEventRecord", event, engine), 0);
        if waits {
            assert_eq!(hip.call2("hipStreamWaitEvent", ours, event), 0);
        }
        assert_eq!(hip.copy(pinned, memory, 64, D2H, ours), 0);
        assert_eq!(hip.call2("hipStreamSynchronize", ours, 0), 0);
        assert_eq!(hip.byte(pinned), expected, "waits: {waits}");
    }
}

#[test]
fn what_was_not_waited_for_has_not_happened() {
    let hip = Raw::new(&[]);
    let (memory, pinned, stream) = (hip.malloc(64), hip.pinned(64), hip.stream());
    let event = hip.made("hipEventCreateWithFlags", 0, 0);
    assert_eq!(hip.call("hipMemsetAsync", [memory, 7, 64, stream, 0, 0, 0, 0, 0]), 0);
    assert_eq!(hip.copy(pinned, memory, 64, D2H, stream), 0);
    assert_eq!(hip.call2("hipEventRecord", event, stream), 0);
    assert_eq!(hip.call2("hipEventQuery", event, 0), 600, "hipErrorNotReady");
    assert_eq!(hip.byte(pinned), 0xA5);
    assert_eq!(hip.call2("hipEventSynchronize", event, 0), 0);
    assert_eq!((hip.byte(pinned), hip.call2("hipEventQuery", event, 0)), (7, 0));
}

#[test]
fn a_copy_stays_inside_its_allocations_and_goes_where_its_kind_says() {
    let hip = Raw::new(&[]);
    let (memory, pinned, stream) = (hip.malloc(64), hip.pinned(64), hip.stream());
    assert_eq!(hip.copy(pinned, memory, 65, D2H, stream), 1, "hipErrorInvalidValue");
    assert_eq!(hip.copy(pinned, memory + 1, 64, D2H, stream), 1);
    assert_eq!(hip.copy(pinned, memory, 64, 1, stream), 21, "hipErrorInvalidMemcpyDirection");
    let rows = |pitch| hip.call("hipMemcpy2DAsync", [pinned, pitch, memory, 16, 16, 4, D2H, stream, 0]);
    assert_eq!((rows(8), rows(16)), (12, 0), "hipErrorInvalidPitchValue");
}

#[test]
fn a_kernel_reaches_only_what_its_device_does() {
    let hip = Raw::new(&[]);
    let mut image = [0_u64; 8];
    let (mut module, mut function): (Word, Word) = (0, 0);
    let load = |image: &[u64; 8], module: &mut Word| {
        hip.call2(
            "hipModuleLoadData",
            std::ptr::from_mut(module).expose_provenance(),
            image.as_ptr().expose_provenance(),
        )
    };
    assert_eq!(load(&image, &mut module), 200, "hipErrorInvalidImage");
    image[0] = u64::from_le_bytes(*b"\x7fELF\0\0\0\0");
    image[2] = 224 << 16;
    image[6] = 0x3f;
    assert_eq!(load(&image, &mut module), 209, "hipErrorNoBinaryForGpu: it is for gfx90a");
    image[6] = 0x4c;
    assert_eq!(load(&image, &mut module), 0);
    let named = |function: &mut Word, name: &std::ffi::CStr| {
        let to = std::ptr::from_mut(function).expose_provenance();
        hip.call("hipModuleGetFunction", [to, module, name.as_ptr().expose_provenance(), 0, 0, 0, 0, 0, 0])
    };
    assert_eq!(named(&mut function, c"kv_other"), 500, "hipErrorNotFound");
    assert_eq!(named(&mut function, c"kv_gather"), 0);
    let stream = hip.stream();
    // Its tables are at the address of a local variable.
    let tables = [0_u64; 64];
    let mut words = [tables.as_ptr().expose_provenance() as u64; 5];
    let mut pointers = words.each_mut().map(|word| std::ptr::from_mut(word).expose_provenance());
    let parameters = pointers.as_mut_ptr().expose_provenance();
    type Launch = unsafe extern "C" fn(
        Word,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        Word,
        Word,
        Word,
    ) -> c_int;
    // SAFETY: the type is that of HIP's header.
    let launch = unsafe { hip.0.library.symbol::<Launch>("hipModuleLaunchKernel") }.unwrap();
    // SAFETY: the parameters outlive the call.
    let launched = |threads| unsafe { launch(function, 1, 1, 1, threads, 1, 1, 0, stream, parameters, 0) };
    assert_eq!(launched(64), 9, "hipErrorInvalidConfiguration");
    assert_eq!(launched(256), 0);
    assert_eq!(hip.call2("hipStreamSynchronize", stream, 0), 700, "hipErrorIllegalAddress");
    assert_eq!(hip.copy(0, 0, 1, D2H, stream), 700, "and so from then on");
}

#[test]
fn an_asynchronous_copy_of_pageable_memory_is_staged_at_once() {
    for (strict, code) in [("0", 0), ("1", 1)] {
        let hip = Raw::new(&[&format!("set strict {strict}")]);
        let (memory, stream) = (hip.malloc(64), hip.stream());
        let mut pageable = [0_u8; 64];
        let to = (&raw mut pageable).expose_provenance();
        assert_eq!(hip.copy(to, memory, 64, D2H, stream), code);
        assert_eq!(pageable[63], if code == 0 { 0xA5 } else { 0 });
    }
}

#[test]
fn the_numbers_of_memory_kinds_changed_with_6() {
    for (version, expected) in [("50200000", (1, 0, 1)), ("60300000", (2, 1, 0))] {
        let hip = Raw::new(&[&format!("set hip-version {version}")]);
        let kind = |address: Word| {
            let mut found = [0xff_u8; 32];
            let code = hip.call2("hipPointerGetAttributes", (&raw mut found).expose_provenance(), address);
            (code, i32::from_le_bytes(found[..4].try_into().unwrap()))
        };
        let (device, host, unknown) = expected;
        assert_eq!((kind(hip.malloc(64)), kind(hip.pinned(64))), ((0, device), (0, host)), "{version}");
        assert_eq!(kind(0x1000).0, unknown, "{version}: memory that HIP does not know");
    }
}

#[test]
fn the_properties_without_a_suffix_are_the_old_structure_in_every_version() {
    for version in ["50200000", "70200000"] {
        let hip = Raw::new(&[&format!("set hip-version {version}")]);
        for (symbol, at) in [("hipGetDeviceProperties", 396), ("hipGetDevicePropertiesR0600", 1160)] {
            let mut properties = vec![0_u8; 8192];
            assert_eq!(hip.call2(symbol, properties.as_mut_ptr().expose_provenance(), 0), 0);
            assert_eq!(&properties[at..at + 7], b"gfx942:", "{symbol}");
        }
    }
    let old = own_copy_without(&fake_file(), &["hipGetDevicePropertiesR0600"]).unwrap();
    // SAFETY: the type is that of HIP's header.
    let symbol = unsafe {
        support::open(&old).unwrap().optional::<unsafe extern "C" fn()>("hipGetDevicePropertiesR0600")
    };
    assert!(symbol.is_none());
}

/// Copies `count` bytes in as many pieces, with so many attributes.
fn batch(hip: &Raw, count: Word, attributes: Word) -> c_int {
    let (memory, pinned, stream) = (hip.malloc(count), hip.pinned(count), hip.stream());
    let to: Vec<Word> = (0..count).map(|at| pinned + at).collect();
    let from: Vec<Word> = (0..count).map(|at| memory + at).collect();
    let sizes = vec![1_usize; count];
    let (attribute, index, mut failed) = ([1_u32, 0, 0, 0, 0, 0], 0_usize, 0_usize);
    let address = |words: &[Word]| words.as_ptr().expose_provenance();
    let code = hip.call(
        "hipMemcpyBatchAsync",
        [
            address(&to),
            address(&from),
            address(&sizes),
            count,
            attribute.as_ptr().expose_provenance(),
            (&raw const index).expose_provenance(),
            attributes,
            (&raw mut failed).expose_provenance(),
            stream,
        ],
    );
    if code != 0 { code } else { hip.call2("hipStreamSynchronize", stream, 0) }
}

#[test]
fn a_batch_takes_no_attributes_before_7_13() {
    for (version, code) in [("70200000", 1), ("71300000", 0)] {
        let hip = Raw::new(&[&format!("set hip-version {version}")]);
        assert_eq!((batch(&hip, 2, 1), batch(&hip, 2, 0)), (code, 0), "{version}");
    }
}

#[test]
fn a_batch_of_more_than_8192_pieces_faults() {
    let hip = Raw::new(&[]);
    assert_eq!(batch(&hip, 8192, 0), 0);
    assert_eq!(batch(&hip, 8193, 0), 700);
}

#[test]
fn a_stream_that_was_destroyed_is_no_stream() {
    let hip = Raw::new(&[]);
    let (memory, pinned, stream) = (hip.malloc(64), hip.pinned(64), hip.stream());
    assert_eq!(hip.call2("hipStreamDestroy", stream, 0), 0);
    assert_eq!(hip.copy(pinned, memory, 64, D2H, stream), 400);
    assert_eq!(hip.call2("hipStreamSynchronize", stream, 0), 400);
    assert_eq!(hip.call2("hipStreamDestroy", stream, 0), 400);
}

#[test]
fn memory_is_freed_once_and_by_what_allocated_it() {
    let hip = Raw::new(&[]);
    let (memory, pinned, stream) = (hip.malloc(64), hip.pinned(64), hip.stream());
    assert_eq!((hip.call2("hipFree", pinned, 0), hip.call2("hipHostFree", memory, 0)), (1, 1));
    assert_eq!(hip.call2("hipFree", memory + 8, 0), 1);
    assert_eq!(hip.call2("hipFree", memory, 0), 0);
    assert_eq!(hip.call2("hipFree", memory, 0), 1);
    assert_eq!(hip.copy(pinned, memory, 64, D2H, stream), 17, "hipErrorInvalidDevicePointer");
    assert_eq!(hip.call2("hipHostUnregister", pinned, 0), 713, "hipErrorHostMemoryNotRegistered");
    let mut own = vec![0_u8; 64];
    let own = own.as_mut_ptr().expose_provenance();
    let register = || hip.call("hipHostRegister", [own, 64, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((register(), register()), (0, 712), "hipErrorHostMemoryAlreadyRegistered");
    assert_eq!(hip.call2("hipHostUnregister", own, 0), 0);
}
