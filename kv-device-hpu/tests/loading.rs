//! Opening a device where something is missing or wrong: a typed error that names it, never a panic.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use kv_device::dynamic::Missing;
use kv_device::{Error, ErrorKind};
use kv_device_hpu::synapse::{DeviceType, Runtime, Selector, VendorError};
use kv_device_hpu::sys::Status;
use kv_device_hpu::{HpuDevice, HpuOptions};
use support::{Fake, settled_leaks};

fn options(library: &Path) -> HpuOptions {
    let mut options = HpuOptions::default();
    options.library = Some(library.to_owned());
    options
}

fn unavailable(library: &Path) -> Error {
    let error = HpuDevice::attach(&options(library)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains(&*library.to_string_lossy()), "{error}");
    error
}

fn missing(error: &Error) -> &Missing {
    error.source().unwrap().downcast_ref::<Missing>().unwrap()
}

#[test]
fn a_missing_library_names_every_path_that_was_tried() {
    let error = unavailable(Path::new("/nowhere/libSynapse.so"));
    assert!(matches!(missing(&error), Missing::Library { tried } if tried.len() == 1));
    if std::env::var_os("KVBRIDGE_SYNAPSE_LIBRARY").is_some() {
        println!("SKIPPED: the search itself, since KVBRIDGE_SYNAPSE_LIBRARY is set");
        return;
    }
    match Runtime::load() {
        Ok(runtime) => println!("SKIPPED: this host has the runtime, {}", runtime.library()),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            let Missing::Library { tried } = missing(&error) else { panic!("{error}") };
            let paths: Vec<&str> = tried.iter().map(|attempt| attempt.path.as_str()).collect();
            let expected = ["libSynapse.so", "libSynapse.so.1", "/usr/lib/habanalabs/libSynapse.so"];
            assert_eq!(paths[..3], expected);
            for path in paths {
                assert!(error.to_string().contains(path), "{error}");
            }
        }
    }
}

#[test]
fn another_library_lacks_the_functions() {
    let library = Path::new("libc.so.6");
    let error = unavailable(library);
    assert!(
        matches!(missing(&error), Missing::Symbol { symbol, .. } if symbol == "synInitialize"),
        "{error}"
    );
}

#[test]
fn a_file_for_another_processor_is_told_from_a_missing_one() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libSynapse.so");
    let mut bytes = std::fs::read(support::library()).unwrap();
    bytes[18..20].copy_from_slice(&183_u16.to_le_bytes()); // 64-bit Arm
    std::fs::write(&library, &bytes).unwrap();
    assert!(unavailable(&library).to_string().contains("another processor"));
    std::fs::write(&library, b"not a library").unwrap();
    assert!(unavailable(&library).to_string().contains("file too short"));
}

#[test]
fn an_old_runtime_is_refused_before_it_is_started() {
    let fake = Fake::with(&["set version 1.1.0-614"]);
    let error = unavailable(&fake.path);
    assert!(error.to_string().contains("release 1.1: expected 1.16 or later"), "{error}");
    assert_eq!(fake.count("synInitialize"), 0);
}

#[test]
fn a_host_without_a_device_is_told_and_the_runtime_is_not_ended() {
    let fake = Fake::with(&["set modules 0"]);
    let error = fake.own().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("finds no device on this host"), "{error}");
    assert!(error.to_string().contains("1.21.0.555"), "{error}");
    assert_eq!(fake.count("synDestroy"), 0, "it would hang");
    let error = HpuDevice::attach(&fake.options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no device is acquired in this process"), "{error}");
}

#[test]
fn another_type_than_expected_names_both_sides_and_gives_the_device_back() {
    let fake = Fake::with(&["set type gaudi2"]);
    let mut options = fake.options();
    options.expected_type = Some(DeviceType::Gaudi3);
    let error = HpuDevice::own(Selector::Any, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    for words in
        ["Device type mismatch: expected gaudi3, found gaudi2", "HL-225", "0000:19:00.0", "1.21.0.555"]
    {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(settled_leaks(&fake), "");
    let error = HpuDevice::own(Selector::Type(DeviceType::Gaudi3), &fake.options()).unwrap_err();
    assert_eq!(vendor(&error), Status::NO_DEVICE_FOUND);
}

#[test]
fn a_device_says_what_it_is() {
    let fake = Fake::new();
    let device = HpuDevice::own(Selector::Module(5), &fake.options()).unwrap();
    let identity = device.identity();
    assert_eq!((identity.device_type, identity.memory_bytes), (DeviceType::Gaudi3, 128 << 30));
    assert_eq!(
        (identity.pci_address.as_str(), identity.driver_version.as_str()),
        ("0000:1e:00.0", "1.21.0.555")
    );
    assert_eq!(kv_device::Device::info(&*device).ordinal, 5);
    assert!(identity.to_string().contains("HL-325L (emulated) (gaudi3), 128 GiB"), "{identity}");
}

/// What an operator sees, in a process of its own that finds the runtime, and how it is to be, in the environment.
#[test]
fn device_info_lists_the_devices_or_says_why_not() {
    let program = support::library().with_file_name("hpu_device_info");
    let run = |library: &Path, script: &str, expected: &[&str]| {
        let mut command = Command::new(&program);
        command.env("KVBRIDGE_SYNAPSE_LIBRARY", library).env("KV_FAKE_SCRIPT", script).args(expected);
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (success, text) = run(&support::library(), "set modules 2", &["gaudi3"]);
    assert!(success && text.starts_with("driver 1.21.0.555 through "), "{text}");
    let device = "acquired HL-325L (emulated) (gaudi3), 128 GiB, PCI 0000:19:00.0, NUMA node unknown, driver 1.21.0.555";
    for words in ["module 0: gaudi3", "module 1: gaudi3", device] {
        assert!(text.contains(words), "{text}");
    }
    let (success, text) = run(&support::library(), "set type gaudi2", &["gaudi3"]);
    assert!(!success && text.contains("Device type mismatch: expected gaudi3, found gaudi2"), "{text}");
    let (success, text) = run(Path::new("/absent.so"), "", &[]);
    assert!(!success && text.contains("/absent.so") && text.contains("KVBRIDGE_SYNAPSE_LIBRARY"), "{text}");
}

#[test]
fn one_device_for_a_process_and_one_process_for_a_device() {
    let locks = tempfile::tempdir().unwrap();
    let locked = format!("set locks {}", locks.path().display());
    let (one, other) = (Fake::with(&[&locked]), Fake::with(&[&locked]));
    let device = HpuDevice::own(Selector::Module(3), &one.options()).unwrap();
    let error = HpuDevice::own(Selector::Any, &one.options()).unwrap_err();
    assert_eq!((error.kind(), vendor(&error)), (ErrorKind::Unavailable, Status::DEVICE_ALREADY_ACQUIRED));
    let error = HpuDevice::own(Selector::Module(3), &other.options()).unwrap_err();
    assert_eq!((error.kind(), vendor(&error)), (ErrorKind::Unavailable, Status::NO_DEVICE_FOUND));
    assert!(HpuDevice::own(Selector::Any, &other.options()).is_ok(), "the others are free");
    drop(device);
    assert_eq!(settled_leaks(&one), "");
    assert_eq!(settled_leaks(&other), "");
    assert!(HpuDevice::own(Selector::Module(3), &other.options()).is_ok());
}

/// The vendor's code under an error.
fn vendor(error: &Error) -> Status {
    error.source().unwrap().downcast_ref::<VendorError>().unwrap().status
}

#[test]
fn the_environment_names_the_library_and_child_processes_inherit_the_script() {
    let child = "KV_TEST_ENVIRONMENT";
    if std::env::var_os(child).is_some() {
        let device = HpuDevice::own(Selector::Any, &HpuOptions::default()).unwrap();
        assert_eq!(device.identity().device_type, DeviceType::Gaudi2);
        assert_eq!(PathBuf::from(&device.identity().library), support::library());
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = "the_environment_names_the_library_and_child_processes_inherit_the_script";
    command.args(["--exact", test]).env(child, "1");
    command.env("KVBRIDGE_SYNAPSE_LIBRARY", support::library()).env("KV_FAKE_SCRIPT", "set type gaudi2");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
