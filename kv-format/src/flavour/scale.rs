//! What a recode does to scales: one multiplication with a power of two, which must be exact.

use super::Recode;
use crate::{Dtype, Error, Result, ScaleDirection};

impl Recode {
    /// The scale of recoded elements whose scale was `scale`.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a scale that is no number, infinite, negative or -0, for a divider of zero, and
    /// where the new scale is not exact or leaves the normal numbers, which devices flush to zero.
    pub fn scale(&self, direction: ScaleDirection, scale: f32) -> Result<f32> {
        let refuse = |why: &str| {
            let (from, to) = (self.from().dtype().name(), self.to().dtype().name());
            Error::invalid(format!(
                "scale {scale:e} ({direction:?}) of {from} elements that become {to}: {why}"
            ))
        };
        if scale.is_nan() || scale.is_infinite() || scale.is_sign_negative() {
            return Err(refuse("expected a positive number"));
        }
        if scale == 0.0 && direction == ScaleDirection::Divide {
            return Err(refuse("nothing is divided by zero"));
        }
        // Both are powers of two, so an overflow or an underflow is the only thing that can go wrong.
        let new = match direction {
            ScaleDirection::Multiply => scale * self.scale_factor(),
            ScaleDirection::Divide => scale / self.scale_factor(),
        };
        if new == scale || new.is_normal() {
            return Ok(new);
        }
        Err(refuse(if new.is_infinite() {
            "the new scale overflows"
        } else {
            "the new scale is below the smallest normal number: choose another scale when quantising"
        }))
    }

    /// Replaces the scales of recoded elements, whatever their granularity: per tensor, per head, per (token, head).
    ///
    /// # Errors
    /// As [`scale`](Self::scale), naming the first scale that cannot be replaced; then none is.
    pub fn scales(&self, direction: ScaleDirection, scales: &mut [f32]) -> Result<()> {
        for (index, scale) in scales.iter().enumerate() {
            if let Err(error) = self.scale(direction, *scale) {
                return Err(Error::new(error.kind(), format!("scale {index} of {}: {error}", scales.len())));
            }
        }
        for scale in scales {
            *scale = self.scale(direction, *scale)?;
        }
        Ok(())
    }

    /// As [`scales`](Self::scales) for the bytes of a section of scales, little-endian f32 or bf16: a power of two leaves the bits of
    /// either exact.
    ///
    /// # Errors
    /// As [`scale`](Self::scale), naming the first scale that cannot be replaced, and [`Invalid`](crate::ErrorKind::Invalid) for another
    /// dtype or bytes that are no whole number of scales; then none is replaced.
    pub fn scale_section(&self, direction: ScaleDirection, dtype: Dtype, section: &mut [u8]) -> Result<()> {
        let bytes = dtype.bytes() as usize;
        if !matches!(dtype, Dtype::F32 | Dtype::Bf16) || !section.len().is_multiple_of(bytes) {
            return Err(Error::invalid(format!(
                "{} bytes of scales as {}: expected whole f32 or bf16",
                section.len(),
                dtype.name()
            )));
        }
        // A bf16 is the upper half of an f32.
        let mut scales: Vec<f32> = section
            .chunks_exact(bytes)
            .map(|scale| {
                let mut whole = [0; 4];
                whole[4 - bytes..].copy_from_slice(scale);
                f32::from_le_bytes(whole)
            })
            .collect();
        self.scales(direction, &mut scales)?;
        for (to, scale) in section.chunks_exact_mut(bytes).zip(scales) {
            to.copy_from_slice(&scale.to_le_bytes()[4 - bytes..]);
        }
        Ok(())
    }
}
