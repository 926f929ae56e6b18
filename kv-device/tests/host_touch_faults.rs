//! A host that touches the device address of a host allocation dies: so code that works on the host device has not quietly skipped
//! the device.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use kv_device::{HostDevice, HostDeviceOptions};

/// Set in the child: what it does to the device address.
const ACT: &str = "KV_DEVICE_TEST_TOUCH";
const SIGSEGV: i32 = 11;

#[test]
fn touching_the_device_address_faults() {
    let device = HostDevice::new(HostDeviceOptions::default()).unwrap();
    let allocation = device.allocate(4 << 20).unwrap();
    let first = usize::try_from(allocation.region().address).unwrap();
    let inside = first + (3 << 20);
    match std::env::var(ACT).as_deref() {
        Err(_) => {}
        Ok("nothing") => return,
        Ok("first") => return touch(first),
        Ok(_) => return touch(inside),
    }
    let status = |act| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "touching_the_device_address_faults"])
            .env(ACT, act)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    };
    assert!(status("nothing").success(), "the child fails without touching anything");
    assert_eq!(status("first").signal(), Some(SIGSEGV));
    assert_eq!(status("inside").signal(), Some(SIGSEGV));
}

/// Reads one byte through a device address.
fn touch(address: usize) {
    let pointer = std::ptr::with_exposed_provenance::<u8>(address);
    // SAFETY: none is claimed: this runs in a child process that must die here. The address is mapped without permissions and volatile
    // reads are not removed, so the kernel ends the process before a value exists.
    let byte = unsafe { pointer.read_volatile() };
    std::hint::black_box(byte);
}
