//! `synDeviceInfoV2`, read field by field from bytes: later releases may append fields, and no release may write past the room.

/// Room for the struct: it has 72 bytes in 1.21, and the runtime writes what its release has.
pub const DEVICE_INFO_BYTES: usize = 256;

/// Where the fields are on x86-64, in bytes (measured with the vendor's header of 1.21; `global_hbm_base` is reserved before).
mod offset {
    pub(super) const DRAM_BASE: usize = 8;
    pub(super) const DRAM_SIZE: usize = 24;
    pub(super) const DEVICE_TYPE: usize = 52;
    pub(super) const DEVICE_INDEX: usize = 56;
    pub(super) const GLOBAL_HBM_BASE: usize = 64;
}

/// What `synDeviceGetInfoV2` says of the acquired device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFacts {
    /// First address of the device's memory, as the device sees it.
    pub dram_base: u64,
    /// Bytes of the device's memory.
    pub dram_size: u64,
    /// `synDeviceType`.
    pub device_type: i32,
    /// Number of the device on its host.
    pub device_index: u8,
    /// First address of the pool that all of a device's users share; 0 before 1.21.
    pub global_hbm_base: u64,
}

impl DeviceFacts {
    /// Reads the struct.
    pub fn from_bytes(bytes: &[u8; DEVICE_INFO_BYTES]) -> Self {
        Self {
            dram_base: u64::from_le_bytes(field(bytes, offset::DRAM_BASE)),
            dram_size: u64::from_le_bytes(field(bytes, offset::DRAM_SIZE)),
            device_type: i32::from_le_bytes(field(bytes, offset::DEVICE_TYPE)),
            device_index: u8::from_le_bytes(field(bytes, offset::DEVICE_INDEX)),
            global_hbm_base: u64::from_le_bytes(field(bytes, offset::GLOBAL_HBM_BASE)),
        }
    }

    /// Writes the struct: for emulations. The fields that are not kept here are zero.
    pub fn to_bytes(self) -> [u8; 72] {
        let mut bytes = [0; 72];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(offset::DRAM_BASE, &self.dram_base.to_le_bytes());
        put(offset::DRAM_SIZE, &self.dram_size.to_le_bytes());
        put(offset::DEVICE_TYPE, &self.device_type.to_le_bytes());
        put(offset::DEVICE_INDEX, &[self.device_index]);
        put(offset::GLOBAL_HBM_BASE, &self.global_hbm_base.to_le_bytes());
        bytes
    }
}

fn field<const N: usize>(bytes: &[u8; DEVICE_INFO_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes[at + index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_a_c_compiler_puts_them() {
        /// The order and types of the vendor's struct.
        #[repr(C)]
        struct Info {
            sram_base: u64,
            dram_base: u64,
            sram_size: u32,
            dram_size: u64,
            tpc_mask: u64,
            dram_enabled: u8,
            device_id: u32,
            fd: u32,
            device_type: i32,
            device_index: u8,
            global_hbm_base: u64,
        }
        assert_eq!(std::mem::offset_of!(Info, dram_base), offset::DRAM_BASE);
        assert_eq!(std::mem::offset_of!(Info, dram_size), offset::DRAM_SIZE);
        assert_eq!(std::mem::offset_of!(Info, fd), 48);
        assert_eq!(std::mem::offset_of!(Info, device_type), offset::DEVICE_TYPE);
        assert_eq!(std::mem::offset_of!(Info, device_index), offset::DEVICE_INDEX);
        assert_eq!(std::mem::offset_of!(Info, global_hbm_base), offset::GLOBAL_HBM_BASE);
        assert_eq!(size_of::<Info>(), 72);
    }

    #[test]
    fn what_is_written_is_read() {
        let facts = DeviceFacts {
            dram_base: 0x1001_0000_0000_0000,
            dram_size: 128 << 30,
            device_type: 5,
            device_index: 7,
            global_hbm_base: 0x1001_0000_2000_0000,
        };
        let mut room = [0; DEVICE_INFO_BYTES];
        room[..72].copy_from_slice(&facts.to_bytes());
        assert_eq!(DeviceFacts::from_bytes(&room), facts);
    }
}
