//! CRC-64/NVME, the checksum of sections and headers: as fast as memory, and S3's own full-object checksum.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC-64/NVME of bytes that arrive in pieces.
#[derive(Debug, Clone)]
pub struct Checksum(Digest);

impl Checksum {
    /// Of no bytes yet.
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Nvme))
    }

    /// Of the next bytes too.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }

    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> u64 {
        crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= SPEC.md#checksum-algorithm
    #[test]
    fn it_is_crc_64_nvme() {
        // The check value of the algorithm's definition.
        assert_eq!(Checksum::of(b"123456789"), 0xae8b_1486_0a79_9888);
        let mut pieces = Checksum::new();
        pieces.update(b"1234");
        pieces.update(b"56789");
        assert_eq!(pieces.value(), 0xae8b_1486_0a79_9888);
    }
}
