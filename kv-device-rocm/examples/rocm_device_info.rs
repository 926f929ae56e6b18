//! Which HIP and which devices this process sees, and why not, if not: `cargo run -p kv-device-rocm --example rocm_device_info`.
//!
//! `--cuda` asks CUDA's runtime, which is loaded and identified in the same way.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is the terminal's")]

use std::error::Error as _;
use std::process::ExitCode;

use kv_device::dynamic::Missing;
use kv_device_rocm::{RocmDevice, Runtime, Vendor};

fn main() -> ExitCode {
    let vendor = match std::env::args().nth(1).as_deref() {
        None => Vendor::Hip,
        Some("--cuda") => Vendor::Cuda,
        Some(other) => {
            eprintln!("{other}: expected nothing, or --cuda");
            return ExitCode::from(2);
        }
    };
    match show(vendor) {
        Ok(()) => ExitCode::SUCCESS,
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

fn show(vendor: Vendor) -> kv_device::Result<()> {
    let runtime = Runtime::open(vendor)?;
    println!("{}", runtime.describe());
    let count = runtime.device_count()?;
    println!("{count} devices");
    if vendor == Vendor::Hip {
        for ordinal in 0..u32::try_from(count).unwrap_or(0) {
            match RocmDevice::open(ordinal) {
                Ok(device) => println!("{}", device.identity()),
                Err(error) => println!("{error}"),
            }
        }
    }
    Ok(())
}
