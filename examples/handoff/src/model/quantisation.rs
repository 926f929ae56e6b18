//! The three ways SmolLM2's GGUF stores numbers, and how they become f32.

use half::f16;

/// Storage of a tensor's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantisation {
    /// Plain little-endian f32.
    F32,
    /// Blocks of 32: f16 scale, f16 minimum, 32 four-bit steps (low halves first).
    Q4_1,
    /// Blocks of 32: f16 scale, 32 signed bytes.
    Q8_0,
}

impl Quantisation {
    /// From the type number of a GGUF tensor entry.
    #[must_use]
    pub fn from_ggml(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::F32),
            3 => Some(Self::Q4_1),
            8 => Some(Self::Q8_0),
            _ => None,
        }
    }

    /// Its usual name; `None` for plain numbers.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::F32 => None,
            Self::Q4_1 => Some("q4_1"),
            Self::Q8_0 => Some("q8_0"),
        }
    }

    /// (elements, bytes) of one block.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::Q4_1 => (32, 20),
            Self::Q8_0 => (32, 34),
        }
    }

    /// Bytes of a row of `columns`, or `None` where blocks do not fit the row.
    #[must_use]
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let (elements, bytes) = self.block();
        columns.is_multiple_of(elements).then(|| columns / elements * bytes)
    }

    /// The numbers stored in `bytes` (whole blocks; an incomplete last block is ignored).
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let (elements, block_bytes) = self.block();
        let mut values = Vec::with_capacity(bytes.len() / block_bytes * elements);
        for block in bytes.chunks_exact(block_bytes) {
            match self {
                Self::F32 => values.push(f32::from_le_bytes(block.try_into().unwrap_or_default())),
                Self::Q4_1 => {
                    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
                    let steps = &block[4..];
                    values.extend(steps.iter().map(|step| scale * f32::from(step & 15) + minimum));
                    values.extend(steps.iter().map(|step| scale * f32::from(step >> 4) + minimum));
                }
                Self::Q8_0 => {
                    let scale = half_at(block, 0);
                    values.extend(block[2..].iter().map(|step| scale * f32::from(step.cast_signed())));
                }
            }
        }
        values
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q8_0_is_scale_times_step() {
        let mut block = f16::from_f32(0.5).to_le_bytes().to_vec();
        block.extend((0..32).map(|step: i8| (step - 16).to_le_bytes()[0]));
        let values = Quantisation::Q8_0.decode(&block);
        assert_eq!(values.len(), 32);
        assert_eq!((values[0], values[16], values[31]), (-8.0, 0.0, 7.5));
    }

    #[test]
    fn q4_1_has_the_low_halves_first() {
        let mut block = f16::from_f32(2.0).to_le_bytes().to_vec();
        block.extend(f16::from_f32(-1.0).to_le_bytes());
        block.extend([0x31; 16]);
        let values = Quantisation::Q4_1.decode(&block);
        assert_eq!(values[..16], [1.0; 16]);
        assert_eq!(values[16..], [5.0; 16]);
    }

    #[test]
    fn rows_hold_whole_blocks() {
        assert_eq!(Quantisation::Q4_1.row_bytes(64), Some(40));
        assert_eq!(Quantisation::Q4_1.row_bytes(65), None);
        assert_eq!(Quantisation::F32.row_bytes(3), Some(12));
    }
}
