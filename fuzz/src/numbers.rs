//! Bytes as a stream of numbers, the small ones and those at the ends of ranges in few bytes; zeros when it has run dry.

pub struct Numbers<'a>(pub &'a [u8]);

impl<'a> Numbers<'a> {
    pub fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().map_or((0, self.0), |(byte, rest)| (*byte, rest));
        self.0 = rest;
        byte
    }

    pub fn u64(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=199 => u64::from(small),
            // Beside a power of two.
            200 => (1_u64 << (self.byte() % 64)).wrapping_add(u64::from(self.byte())).wrapping_sub(2),
            201 => u64::MAX - u64::from(self.byte()),
            202 => u64::from(u32::MAX) - u64::from(self.byte()),
            203 => (0..8).fold(0, |wide, _| wide << 8 | u64::from(self.byte())),
            step => 8 * u64::from(step - 200) * (1 + u64::from(self.byte())),
        }
    }

    /// As [`u64`](Self::u64), its low half.
    pub fn u32(&mut self) -> u32 {
        u32::try_from(self.u64() & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// Up to `most` bytes behind their number.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = usize::from(self.byte()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken
    }

    pub fn text(&mut self, most: usize) -> String {
        String::from_utf8_lossy(self.bytes(most)).into_owned()
    }
}
