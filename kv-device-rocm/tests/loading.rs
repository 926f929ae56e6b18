//! What is said when HIP is not there, is not HIP, is old, lacks something, or has no device; and what a device is.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod support;

use std::error::Error as _;

use kv_device::dynamic::Missing;
use kv_device::emulation::{SCRIPT_VARIABLE, own_copy_without};
use kv_device::{Device as _, DeviceRegion, Error, ErrorKind, conformance::Engine as _};
use kv_device_rocm::{HIP_VARIABLE, RocmDevice, RocmOptions, Runtime, Vendor, VendorError};
use support::{FakeHip, fake_file};

fn vendor(error: &Error) -> &VendorError {
    error.source().and_then(|source| source.downcast_ref()).unwrap()
}

#[test]
fn a_file_that_is_missing_or_no_library_is_named() {
    let folder = std::env::temp_dir();
    let foreign = folder.join(format!("kvbridge-foreign-{}.so", std::process::id()));
    let mut bytes = std::fs::read(fake_file()).unwrap();
    bytes.truncate(4096);
    bytes[18] = 183; // AArch64
    std::fs::write(&foreign, bytes).unwrap();
    for (file, reason) in [
        (folder.join("absent/libamdhip64.so.7"), "No such file"),
        (std::path::PathBuf::from("/etc/passwd"), "ELF header"),
        (foreign.clone(), "another processor"),
    ] {
        let error = RocmDevice::open_with(RocmOptions::new(0).library(&file)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
        match error.source().and_then(|source| source.downcast_ref()) {
            Some(Missing::Library { tried }) => assert!(tried[0].reason.contains(reason), "{tried:?}"),
            other => panic!("expected a missing library, found {other:?}"),
        }
    }
    std::fs::remove_file(foreign).unwrap();
}

#[test]
fn a_missing_symbol_is_named_and_an_optional_one_is_done_without() {
    let broken = own_copy_without(&fake_file(), &["hipStreamSynchronize"]).unwrap();
    let error = RocmDevice::open_with(RocmOptions::new(0).library(broken)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("has no hipStreamSynchronize"), "{error}");

    let old =
        own_copy_without(&fake_file(), &["hipGetDevicePropertiesR0600", "hipMemcpyBatchAsync"]).unwrap();
    let fake = FakeHip::of(old, &["set hip-version 50700000"]);
    assert_eq!(fake.device().unwrap().identity().arch, "gfx942");
    let none = ["hipGetDevicePropertiesR0600", "hipGetDeviceProperties"];
    let fake = FakeHip::of(own_copy_without(&fake_file(), &none).unwrap(), &[]);
    assert_eq!(fake.device().unwrap().identity().arch, "gfx942", "by its capability");
}

#[test]
fn an_old_version_says_what_was_expected() {
    let fake = FakeHip::new(&["set hip-version 40500000"]);
    let error = fake.device().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("HIP 4.5.0") && error.to_string().contains("5.2 or newer"), "{error}");
}

#[test]
fn no_device_is_typed_in_every_version() {
    for version in ["50200000", "60300000", "70200000"] {
        let fake = FakeHip::new(&["set devices 0", &format!("set hip-version {version}")]);
        let error = fake.device().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(vendor(&error).code, 100, "{error}");
        assert!(error.to_string().contains("HIP "), "{error}");
    }
    let fake = FakeHip::new(&[]);
    let error = RocmDevice::open_with(RocmOptions::new(7).library(&fake.file)).unwrap_err();
    assert!(error.to_string().contains("sees 2 devices, so the highest is 1"), "{error}");
}

#[test]
fn a_device_says_what_it_is() {
    let fake = FakeHip::new(&[]);
    let device = fake.device().unwrap();
    let identity = device.identity();
    assert_eq!(
        (identity.arch.as_str(), identity.pci.as_str(), identity.numa),
        ("gfx942", "0000:c1:00.0", Some(0))
    );
    assert_eq!((identity.memory_bytes, identity.versions.runtime), (192 << 30, 70_200_000));
    let expected = "rocm:1: AMD Instinct MI300X (emulated) (gfx942), 192 GiB of 192 free, PCI 0000:c1:00.0, NUMA node 0; HIP 7.2.0, driver 70200000";
    assert_eq!(identity.to_string(), expected);
    assert_eq!((device.info().kind.as_str(), device.info().ordinal), ("rocm", 1));
    let runtime = Runtime::open_file(Vendor::Hip, &fake.file).unwrap();
    assert_eq!(runtime.device_count().unwrap(), 2);
}

/// What an operator sees, in a process of its own that finds the runtime, and how it is to be, in the environment.
#[test]
fn device_info_lists_the_devices_or_says_why_not() {
    let program = fake_file().with_file_name("rocm_device_info");
    let run = |library: &std::path::Path, script: &str, expected: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(expected);
        command.env(HIP_VARIABLE, library).env(SCRIPT_VARIABLE, script);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (success, text) = run(&fake_file(), "set devices 3; set hip-version 60300000", &["gfx942"]);
    assert!(
        success && text.starts_with("HIP 6.3.0, driver 60300000 (") && text.contains("3 devices"),
        "{text}"
    );
    assert!(text.contains("rocm:2: AMD Instinct MI300X (emulated) (gfx942)"), "{text}");
    let (success, text) = run(&fake_file(), "set arch gfx90a", &["gfx942"]);
    let mismatch = "rocm:1: Device type mismatch: expected gfx942, found gfx90a (rocm:1: AMD Instinct MI300X (emulated) (gfx90a), 192 GiB of 192 free, PCI 0000:c1:00.0, NUMA node 0; HIP 7.2.0";
    assert!(!success && text.contains(mismatch), "{text}");
    let (success, text) = run(&fake_file(), "set devices 0", &[]);
    assert!(!success && text.contains("sees no device") && text.contains("/dev/kfd"), "{text}");
    let (success, text) = run(std::path::Path::new("/absent.so"), "", &[]);
    assert!(!success && text.contains("/absent.so") && text.contains(HIP_VARIABLE), "{text}");
}

#[test]
fn a_processor_without_kernels_is_unsupported() {
    let mute = own_copy_without(&fake_file(), &["amd_comgr_get_isa_count"]).unwrap();
    // The first tells which processors it knows, in 5.2 the only way to an answer; the compiler of the other refuses.
    for (fake, words) in [
        (
            FakeHip::new(&["set hip-version 50200000"]),
            "does not know gfx1201: expected one of gfx908, gfx90a, ",
        ),
        (FakeHip::of(mute, &[]), "hiprtcCompileProgram answered 6: cannot compile the kernels for gfx1201"),
    ] {
        fake.tell("set arch gfx1201");
        let error = fake.device().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(fake.tell("leaks"), "");
    }
}

#[test]
fn memory_of_another_device_is_refused_with_both_names() {
    let fake = FakeHip::new(&[]);
    let engine = fake.engine();
    let other = RocmDevice::open_with(RocmOptions::new(0).library(&fake.file)).unwrap();
    let memory = engine.allocate(4096).unwrap();
    // SAFETY: it is refused.
    let error = unsafe { other.register(vec![memory.region()]) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("rocm:0: region 0") && text.contains("is memory of rocm:1"), "{text}");
    let freed = memory.region();
    drop(memory);
    // SAFETY: it is refused.
    let error = unsafe { engine.device.register(vec![DeviceRegion { ..freed }]) }.unwrap_err();
    assert!(error.to_string().contains("was it freed"), "{error}");
}
