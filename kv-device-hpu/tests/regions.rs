//! What is refused when memory is registered: addresses that cannot be the engine's KV memory, each in its own words.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "registers wrong addresses, which are refused")]

mod support;

use std::sync::Arc;

use kv_device::{Device, DeviceRegion, ErrorKind};
use kv_device_hpu::HpuDevice;
use support::Fake;

/// The refusal of a good region and this one.
fn refusal(device: &Arc<HpuDevice>, wrong: DeviceRegion) -> String {
    let memory = device.allocate(1 << 16).unwrap();
    // SAFETY: nothing is moved.
    let error = unsafe { device.register(vec![memory.region(), wrong]) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let text = error.to_string();
    assert!(text.starts_with("hpu:0: region 1 ("), "{text}");
    text
}

#[test]
fn a_tensor_handle_is_no_address() {
    let fake = Fake::new();
    let device = fake.own().unwrap();
    for bits in [1_u64, 2, 3] {
        let text = refusal(&device, DeviceRegion { address: bits << 62 | 0x7000, len: 4096 });
        for words in ["handle of PyTorch's allocator", "_data_ptr", "not of a view"] {
            assert!(text.contains(words), "{text}");
        }
    }
}

#[test]
fn what_is_not_in_the_device_is_refused_with_the_devices_range() {
    let fake = Fake::new();
    let device = fake.own().unwrap();
    let memory = device.allocate(1 << 16).unwrap();
    let region = memory.region();
    let host = [0_u8; 64];
    for wrong in [
        DeviceRegion { address: 0x1000, len: 0x1000 },
        DeviceRegion { address: host.as_ptr().addr() as u64, len: 64 },
        DeviceRegion { len: u64::MAX, ..region },
        DeviceRegion { len: 1 << 48, ..region },
        DeviceRegion { len: 0, ..region },
    ] {
        let text = refusal(&device, wrong);
        assert!(text.contains("0x1001000000000000..0x1001800000000000"), "{text}");
    }
}

#[test]
fn an_engine_that_moves_its_blocks_is_refused() {
    let child = "KV_TEST_MOVES_BLOCKS";
    if std::env::var_os(child).is_none() {
        // The engine's settings are its environment, which a test cannot change for itself.
        let test = "an_engine_that_moves_its_blocks_is_refused";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let command = command.args(["--exact", test]).env(child, "1").env("VLLM_CONTIGUOUS_PA", "true");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let fake = Fake::new();
    let engine = fake.own().unwrap();
    let memory = engine.allocate(1 << 16).unwrap();
    let device = HpuDevice::attach(&fake.options()).unwrap();
    // SAFETY: nothing is moved.
    let error = unsafe { device.register(vec![memory.region()]) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("run vLLM with VLLM_CONTIGUOUS_PA=false"), "{error}");
    // A tool has no engine around it.
    // SAFETY: nothing is moved.
    assert!(unsafe { engine.register(vec![memory.region()]) }.is_ok());
}
