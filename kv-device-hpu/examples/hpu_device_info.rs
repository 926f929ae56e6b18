//! Prints the runtime, the host's accelerators, and, if one is free, what it is: `hpu_device_info [gaudi2|gaudi3]`.
#![expect(clippy::print_stdout, reason = "a command that prints")]

use std::process::ExitCode;

use kv_device_hpu::synapse::{DeviceType, Runtime, Selector};
use kv_device_hpu::{HpuDevice, HpuOptions};

fn main() -> ExitCode {
    let expected = std::env::args().nth(1).map(|text| text.parse::<DeviceType>());
    let outcome = match expected.transpose() {
        Ok(expected) => print(expected).map_err(|error| error.to_string()),
        Err(usage) => Err(usage),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print(expected: Option<DeviceType>) -> kv_device::Result<()> {
    let runtime = Runtime::load()?;
    println!("driver {} through {}", runtime.version(), runtime.library());
    for module in runtime.modules()? {
        println!("module {module}: {}", runtime.device_type(module)?);
    }
    let mut options = HpuOptions::default();
    options.expected_type = expected;
    let device = HpuDevice::own(Selector::Any, &options)?;
    println!("acquired {}", device.identity());
    Ok(())
}
