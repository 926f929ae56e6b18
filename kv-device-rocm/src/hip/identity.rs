//! What a device is, as the runtime tells it.
#![expect(unsafe_code, reason = "calls HIP")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;

use kv_device::parts::numa_node;
use kv_device::{Error, ErrorKind, Result};

use super::api::Hip;
use super::runtime::Versions;
use crate::Sabotage;
use crate::sys::{self, codes};

/// A device of a host, and the software that drives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Number of the device among those that the process sees.
    pub ordinal: u32,
    /// Name, as "AMD Instinct MI300X".
    pub name: String,
    /// Instruction set without its features, as "gfx942".
    pub arch: String,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes that are free now.
    pub free_bytes: u64,
    /// PCI address, as "0000:c1:00.0".
    pub pci: String,
    /// NUMA node of the host that is nearest, if the host says.
    pub numa: Option<u32>,
    /// The library and the driver.
    pub versions: Versions,
}

impl Hip {
    /// Asks the runtime what the device is.
    pub(crate) fn identify(&self) -> Result<Identity> {
        let _current = self.current()?;
        let pci = self.text("hipDeviceGetPCIBusId", self.table.device_bus_id)?.to_lowercase();
        let mut total = 0_usize;
        // SAFETY: writes a size that outlives the call.
        let code = unsafe { (self.table.device_total)(&raw mut total, self.ordinal) };
        self.check("hipDeviceTotalMem", code, "cannot ask for the device's memory")?;
        let (mut free, mut all) = (0_usize, 0_usize);
        // SAFETY: writes two sizes that outlive the call.
        let code = unsafe { (self.table.memory_info)(&raw mut free, &raw mut all) };
        self.check("hipMemGetInfo", code, "cannot ask for the device's free memory")?;
        Ok(Identity {
            ordinal: u32::try_from(self.ordinal).unwrap_or(0),
            name: self.text("hipDeviceGetName", self.table.device_name)?,
            arch: self.arch()?,
            memory_bytes: total as u64,
            free_bytes: free as u64,
            numa: self.numa(&pci),
            pci,
            versions: self.runtime.versions(),
        })
    }

    fn text(
        &self,
        call: &'static str,
        ask: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> sys::Code,
    ) -> Result<String> {
        let mut text = [0_u8; 256];
        // SAFETY: both functions write a C string of at most the length they are told, one less than the buffer has.
        let code = unsafe { ask(text.as_mut_ptr().cast(), 255, self.ordinal) };
        self.check(call, code, "cannot ask what the device is")?;
        Ok(until_nul(&text))
    }

    fn attribute(&self, attribute: c_int) -> Option<c_int> {
        let mut value: c_int = -1;
        // SAFETY: writes an int that outlives the call; an unknown attribute is an error.
        let code = unsafe { (self.table.device_attribute)(&raw mut value, attribute, self.ordinal) };
        (code == codes::SUCCESS).then_some(value)
    }

    /// The instruction set. Only the properties have its name, in a structure of which each version has its own, so the name is read
    /// where it stands and nothing else is.
    fn arch(&self) -> Result<String> {
        let versions: [(_, _); 2] = [
            (self.table.properties_r0600, sys::ARCH_OFFSET_R0600),
            (self.table.properties_r0000, sys::ARCH_OFFSET_R0000),
        ];
        let wrong = self.sabotage == Some(Sabotage::OldProperties);
        for (ask, offset) in versions.into_iter().skip(usize::from(wrong)) {
            let Some(ask) = ask else { continue };
            let offset = if wrong { sys::ARCH_OFFSET_R0600 } else { offset };
            let mut room = vec![0_u64; sys::PROPERTIES_ROOM / 8];
            // SAFETY: the function fills a structure that is smaller than the room in every version.
            let code = unsafe { ask(room.as_mut_ptr().cast::<c_void>(), self.ordinal) };
            if code != codes::SUCCESS {
                continue;
            }
            let bytes: Vec<u8> = room.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let name = until_nul(bytes.get(offset..offset + sys::ARCH_LEN).unwrap_or_default());
            let base = name.split(':').next().unwrap_or_default();
            if base.starts_with("gfx") {
                return Ok(base.to_owned());
            }
        }
        // Without either, the capability tells the families apart that have kernels here.
        match sys::ATTRIBUTE_CAPABILITY.map(|attribute| self.attribute(attribute)) {
            [Some(9), Some(4)] => Ok("gfx942".into()),
            [Some(9), Some(5)] => Ok("gfx950".into()),
            found => {
                let message = format!(
                    "{} names no instruction set and has capability {found:?}: expected gfx...",
                    self.runtime.describe()
                );
                Err(Error::new(ErrorKind::Unsupported, &self.label, message))
            }
        }
    }

    /// The runtime knows it since 7.2, the kernel always did.
    fn numa(&self, pci: &str) -> Option<u32> {
        let known =
            self.attribute(sys::ATTRIBUTE_NUMA).filter(|_| self.runtime.versions().runtime >= 70_200_000);
        known.and_then(|node| u32::try_from(node).ok()).or_else(|| numa_node(pci))
    }
}

fn until_nul(bytes: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(bytes).map(CStr::to_bytes).unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_owned()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ordinal, name, arch, memory_bytes, free_bytes, pci, numa, versions } = self;
        let gib = |bytes: &u64| bytes >> 30;
        write!(
            f,
            "rocm:{ordinal}: {name} ({arch}), {} GiB of {} free, PCI {pci}, ",
            gib(free_bytes),
            gib(memory_bytes)
        )?;
        match numa {
            Some(node) => write!(f, "NUMA node {node}")?,
            None => f.write_str("NUMA node unknown")?,
        }
        write!(f, "; {versions}")
    }
}
