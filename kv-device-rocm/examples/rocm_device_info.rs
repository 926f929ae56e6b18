//! Which HIP and which devices this process sees, and why not, if not: `cargo run -p kv-device-rocm --example rocm_device_info`.
//!
//! An argument such as `gfx942` is what the devices must be. `--cuda` asks CUDA's runtime, which is loaded and identified in the same way.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is the terminal's")]

use std::error::Error as _;
use std::process::ExitCode;

use kv_device::dynamic::Missing;
use kv_device_rocm::{RocmDevice, RocmOptions, Runtime, Vendor};

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    let (vendor, expected) = match argument.as_deref() {
        None => (Vendor::Hip, None),
        Some("--cuda") => (Vendor::Cuda, None),
        Some(arch) if arch.starts_with("gfx") => (Vendor::Hip, Some(arch)),
        Some(other) => {
            eprintln!("{other}: expected nothing, a processor such as gfx942, or --cuda");
            return ExitCode::from(2);
        }
    };
    match show(vendor, expected) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{:?}: {error}", error.kind());
            if let Some(Missing::Library { tried }) = error.source().and_then(|source| source.downcast_ref())
            {
                for attempt in tried {
                    eprintln!("  {}\n      {}", attempt.path, attempt.reason);
                }
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether every device could be opened.
fn show(vendor: Vendor, expected: Option<&str>) -> kv_device::Result<bool> {
    let runtime = Runtime::open(vendor)?;
    println!("{}", runtime.describe());
    let count = runtime.device_count()?;
    println!("{count} devices");
    let mut opened = true;
    if vendor == Vendor::Hip {
        for ordinal in 0..u32::try_from(count).unwrap_or(0) {
            let options = RocmOptions::new(ordinal);
            let options = expected.into_iter().fold(options, RocmOptions::expect_arch);
            match RocmDevice::open_with(options) {
                Ok(device) => println!("{}", device.identity()),
                Err(error) => {
                    println!("{error}");
                    opened = false;
                }
            }
        }
    }
    Ok(opened)
}
