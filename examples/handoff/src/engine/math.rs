//! The small operations of a Llama layer. Each works on one vector, left to right.

/// RMSNorm of every vector of `weight.len()` elements.
#[must_use]
pub fn rms_norm(vectors: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut normed = Vec::with_capacity(vectors.len());
    for vector in vectors.chunks_exact(weight.len().max(1)) {
        let squares = vector.iter().fold(0f32, |sum, value| sum + value * value);
        #[expect(clippy::cast_precision_loss, reason = "a width is far below 2^24")]
        let scale = 1.0 / (squares / vector.len() as f32 + eps).sqrt();
        normed.extend(vector.iter().zip(weight).map(|(value, weight)| value * scale * weight));
    }
    normed
}

/// Adds `change` to the residual stream.
pub fn add(stream: &mut [f32], change: &[f32]) {
    for (value, change) in stream.iter_mut().zip(change) {
        *value += change;
    }
}

/// SwiGLU: silu(gate) * up.
#[must_use]
pub fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect()
}

/// Turns scores into probabilities.
pub fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0f32;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        total += *score;
    }
    for score in scores.iter_mut() {
        *score /= total;
    }
}

/// The index of the largest value; the first of equals.
#[must_use]
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Rotary position embedding over interleaved pairs (2i, 2i + 1), as llama.cpp permutes Q and K for.
#[derive(Debug, Clone)]
pub struct Rope {
    head_dim: usize,
    base: f64,
}

impl Rope {
    /// For heads of `head_dim` elements.
    #[must_use]
    pub fn new(head_dim: usize, base: f64) -> Self {
        Self { head_dim, base }
    }

    /// Rotates every head of one token's vector.
    pub fn rotate(&self, heads: &mut [f32], position: usize) {
        let angles = self.angles(position);
        for head in heads.chunks_exact_mut(self.head_dim) {
            let (pairs, _) = head.as_chunks_mut::<2>();
            for ([even, odd], (sin, cos)) in pairs.iter_mut().zip(&angles) {
                (*even, *odd) = (*even * cos - *odd * sin, *even * sin + *odd * cos);
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "positions and dims are far below 2^52")]
    #[expect(clippy::cast_possible_truncation, reason = "sines are rounded to f32 on purpose")]
    fn angles(&self, position: usize) -> Vec<(f32, f32)> {
        let angle = |pair: usize| {
            let exponent = -((2 * pair) as f64) / self.head_dim as f64;
            let (sin, cos) = (position as f64 * self.base.powf(exponent)).sin_cos();
            (sin as f32, cos as f32)
        };
        (0..self.head_dim / 2).map(angle).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_sums_to_one_and_hidden_scores_get_exactly_zero() {
        let mut scores = [1.0, 2.0, f32::NEG_INFINITY, 2.0];
        softmax(&mut scores);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(scores[2].to_bits(), 0);
        assert_eq!(scores[1], scores[3]);
    }

    #[test]
    fn rotation_by_position_zero_changes_nothing_and_keeps_length_elsewhere() {
        let rope = Rope::new(4, 10_000.0);
        let mut head = [3.0, 4.0, 1.0, 0.0];
        rope.rotate(&mut head, 0);
        assert_eq!(head, [3.0, 4.0, 1.0, 0.0]);
        rope.rotate(&mut head, 5);
        assert!((head[0].hypot(head[1]) - 5.0).abs() < 1e-5);
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
