//! What the host knows about a device by its place on the PCI bus.

/// The NUMA node of the host that is nearest to a PCI function, such as `0000:c1:00.0`, if the kernel says.
pub fn numa_node(pci: &str) -> Option<u32> {
    // A name of a file, and no path.
    if !pci.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) {
        return None;
    }
    let node = std::fs::read_to_string(format!("/sys/bus/pci/devices/{pci}/numa_node")).ok()?;
    // -1 is a host without nodes, or a firmware that does not tell.
    node.trim().parse().ok()
}
