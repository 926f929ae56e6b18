//! Copies between mapped host memory and the device.

use kv_device::emulation::{Direction, Piece, Side, Work};
use kv_device_hpu::sys::{DRAM_TO_HOST, HOST_TO_DRAM, Handle, Status};

use crate::fake::{Answer, DEVICE_ADDRESSES, Fake, device_call, handle_code, number};

/// `synDmaDir`: within the device.
const DRAM_TO_DRAM: i32 = 2;

#[unsafe(no_mangle)]
extern "C" fn synMemCopyAsync(stream: Handle, source: u64, bytes: u64, to: u64, direction: i32) -> Status {
    device_call("synMemCopyAsync", |fake| fake.copy(stream, &[(source, bytes, to)], direction))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn synMemCopyAsyncMultiple(
    stream: Handle,
    sources: *const u64,
    sizes: *const u64,
    destinations: *const u64,
    direction: i32,
    count: u64,
) -> Status {
    device_call("synMemCopyAsyncMultiple", |fake| {
        if [sources, sizes, destinations].iter().any(|list| list.is_null()) {
            return Err(Status::NULL_POINTER);
        }
        let count = usize::try_from(count).map_err(|_| Status::INVALID_ARGUMENT)?;
        let list = |list: *const u64| -> Vec<u64> {
            // SAFETY: the vendor's contract: `count` numbers.
            (0..count).map(|index| unsafe { list.wrapping_add(index).read_unaligned() }).collect()
        };
        let lists = list(sources).into_iter().zip(list(sizes)).zip(list(destinations));
        let copies: Vec<(u64, u64, u64)> = lists.map(|((from, bytes), to)| (from, bytes, to)).collect();
        fake.copy(stream, &copies, direction)
    })
}

impl Fake {
    /// Queues copies of (source, bytes, destination) as one job. Addresses of the device are not checked here, as the hardware's
    /// memory unit would not until they are used: then the device fails.
    fn copy(&self, stream: Handle, copies: &[(u64, u64, u64)], direction: i32) -> Answer {
        let mut pieces = Vec::with_capacity(copies.len());
        for &(from, len, to) in copies.iter().filter(|(_, bytes, _)| *bytes > 0) {
            if from == 0 || to == 0 {
                return Err(Status::INVALID_ARGUMENT);
            }
            let (from, to) = match direction {
                HOST_TO_DRAM => (self.host(from, len)?, device(to)),
                DRAM_TO_HOST => (device(from), self.host(to, len)?),
                DRAM_TO_DRAM => (device(from), device(to)),
                _ => return Err(Status::INVALID_ARGUMENT),
            };
            pieces.push(Piece { to, from, len });
        }
        let direction = match direction {
            HOST_TO_DRAM => Direction::HostToDevice,
            DRAM_TO_HOST => Direction::DeviceToHost,
            _ => Direction::OnDevice,
        };
        let queued = self.machine().submit(number(stream), Work::Copy { direction, pieces });
        queued.map_err(|error| handle_code(error, Status::INVALID_ARGUMENT))
    }

    /// The host's side of a copy: whatever is wrong with it, the copy finds no mapping.
    fn host(&self, address: u64, bytes: u64) -> Result<Side, Status> {
        self.mapped(address, bytes).map_err(|_| Status::MAPPING_NOT_FOUND)?;
        Ok(Side::Known(address))
    }
}

/// The device's side; an address that no device has is no address of the machine.
fn device(address: u64) -> Side {
    Side::Known(address.wrapping_sub(DEVICE_ADDRESSES))
}
