//! SplitMix64 (Steele, Lea, Flood 2014): a tiny generator whose numbers are the same on every platform for ever.

/// The generator's state.
#[derive(Debug, Clone)]
pub struct SplitMix(u64);

impl SplitMix {
    /// Starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Uniform in [-1, 1): 24 random bits, so every value is exact.
    pub fn next_unit(&mut self) -> f32 {
        let bits = self.next_u64() >> 40;
        #[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32 exactly")]
        let unit = bits as f32;
        unit / 8_388_608.0 - 1.0
    }

    /// Uniform in `0..bound`, by rejection-free multiplication (a bias below 2^-32 does not matter here).
    pub fn below(&mut self, bound: u32) -> u32 {
        let scaled = ((self.next_u64() >> 32) * u64::from(bound)) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_first_numbers_of_seed_1234567() {
        let mut random = SplitMix::new(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn ranges_hold() {
        let mut random = SplitMix::new(7);
        for _ in 0..10_000 {
            assert!((-1.0..1.0).contains(&random.next_unit()));
            assert!(random.below(5) < 5);
        }
    }
}
