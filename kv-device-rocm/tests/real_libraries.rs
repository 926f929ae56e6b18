//! The vendors' own libraries where there is none of their devices: `cargo xtask test --require hip` has them installed.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

use std::error::Error as _;
use std::path::PathBuf;
use std::process::Command;

use kv_device::{Error, ErrorKind};
use kv_device_rocm::{RocmDevice, Runtime, Vendor, VendorError};

/// HIP, unless it is not installed, which is a failure if it is required.
fn hip() -> Option<Runtime> {
    match Runtime::open(Vendor::Hip) {
        Ok(runtime) => Some(runtime),
        Err(error) if std::env::var_os("KVBRIDGE_REQUIRE_HIP").is_none() => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn code(error: &Error) -> i32 {
    error.source().and_then(|source| source.downcast_ref::<VendorError>()).unwrap().code
}

#[test]
fn hip_without_a_device_says_so_with_its_versions() {
    let Some(runtime) = hip() else { return };
    if runtime.device_count().is_ok() {
        eprintln!("SKIPPED: this machine has a device");
        return;
    }
    let error = RocmDevice::open(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(code(&error), 100, "{error}");
    let text = error.to_string();
    assert!(text.contains(&runtime.versions().to_string()) && text.contains("hipErrorNoDevice"), "{text}");
    assert!(text.contains("libamdhip64.so"), "the file stands in it: {text}");
}

/// What an operator sees of it.
#[test]
fn device_info_says_which_hip_it_is_and_that_there_is_no_device() {
    let Some(runtime) = hip() else { return };
    if runtime.device_count().is_ok() {
        eprintln!("SKIPPED: this machine has a device");
        return;
    }
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/rocm_device_info");
    let output =
        Command::new(&program).output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(!output.status.success());
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(text.starts_with(&runtime.describe()), "{text}");
    assert!(text.contains("Unavailable: ") && text.contains("sees no device"), "{text}");
}

#[test]
fn its_compiler_knows_the_kernels() {
    let Some(runtime) = hip() else { return };
    let image = runtime.compile_kernels("gfx90a").unwrap();
    assert!(
        image.starts_with(b"\x7fELF") || image.starts_with(b"__CLANG_OFFLOAD_BUNDLE__"),
        "{:?}",
        &image[..8]
    );
    let named = |name: &[u8]| image.windows(name.len()).any(|bytes| bytes == name);
    assert!(named(b"kv_gather") && named(b"kv_scatter"));
    // One that it does not know: hiprtc of 5.2 would end the process (munmap_chunk: invalid pointer).
    let error = runtime.compile_kernels("gfx9999").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let text = error.to_string();
    assert!(text.contains("does not know gfx9999") && text.contains("gfx90a"), "{text}");
    if runtime.versions().runtime < 60_000_000 {
        assert_eq!(runtime.compile_kernels("gfx942").unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn cuda_without_a_driver_says_so_with_its_version() {
    let Some(file) = std::env::var_os("KVBRIDGE_TEST_CUDART").map(PathBuf::from) else {
        eprintln!("SKIPPED: KVBRIDGE_TEST_CUDART names no CUDA runtime");
        return;
    };
    let runtime = Runtime::open_file(Vendor::Cuda, &file).unwrap();
    let error = runtime.device_count().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(matches!(code(&error), 35 | 100), "{error}");
    assert!(error.to_string().contains("CUDA runtime 12.9"), "{error}");
}
