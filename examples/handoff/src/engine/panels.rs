//! The only place where long sums happen: matrix times vectors, each output summed from its first term to its last.
//!
//! A vector unit wants many sums at once. Splitting one sum over lanes would make its rounding depend on the lane
//! count, so the lanes hold 16 different *outputs* instead: weights are stored in panels of 16 rows, transposed.
//! Tiles, threads and instruction sets choose which sums run side by side, never the order inside one. Multiply and
//! add stay two roundings (no fused multiply-add), so every instruction set gives the same bits.

use multiversion::multiversion;

/// Rows per panel.
const LANES: usize = 16;
/// Vectors multiplied at once: 4 x 16 sums fit the registers of AVX2 and hide the latency of AVX-512's additions.
const TILE: usize = 4;
/// Multiplications worth a thread of their own.
const THREAD_WORK: usize = 1 << 18;

/// A matrix of `rows` x `depth` in panels: `[rows / 16][depth][16]`, padded with zero rows.
#[derive(Debug, Clone)]
pub struct Panels {
    rows: usize,
    depth: usize,
    values: Vec<f32>,
}

impl Panels {
    /// From rows of `depth` elements, one after the other.
    #[must_use]
    pub fn from_rows(rows: &[f32], depth: usize) -> Self {
        let count = rows.len().checked_div(depth).unwrap_or(0);
        let mut values = vec![0.0; count.div_ceil(LANES) * depth * LANES];
        if depth > 0 {
            let groups = rows.chunks(depth * LANES).zip(values.chunks_exact_mut(depth * LANES));
            for (group, panel) in groups {
                for (lane, row) in group.chunks_exact(depth).enumerate() {
                    for (slot, value) in panel.chunks_exact_mut(LANES).zip(row) {
                        slot[lane] = *value;
                    }
                }
            }
        }
        Self { rows: count, depth, values }
    }

    /// From columns of `rows` elements, one after the other: the transposed matrix of [`from_rows`](Self::from_rows).
    #[must_use]
    pub fn from_columns(columns: &[f32], rows: usize) -> Self {
        let depth = columns.len().checked_div(rows).unwrap_or(0);
        let mut values = vec![0.0; rows.div_ceil(LANES) * depth * LANES];
        for (index, column) in columns.chunks_exact(rows.max(1)).enumerate() {
            for (panel, part) in column.chunks(LANES).enumerate() {
                let start = (panel * depth + index) * LANES;
                values[start..start + part.len()].copy_from_slice(part);
            }
        }
        Self { rows, depth, values }
    }

    /// Output elements per vector.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Multiplies vectors `[count][depth]`; returns `[count][rows]`. `threads` share the rows.
    #[must_use]
    pub fn multiply(&self, vectors: &[f32], count: usize, threads: usize) -> Vec<f32> {
        let panel_count = self.rows.div_ceil(LANES);
        if panel_count == 0 || count == 0 || self.depth == 0 {
            return vec![0.0; count * self.rows];
        }
        let packed = pack(vectors, self.depth, count);
        let mut sums = vec![0.0; panel_count * count * LANES];
        let useful = (count * self.rows * self.depth / THREAD_WORK).clamp(1, threads.max(1));
        let share = panel_count.div_ceil(useful);
        let mut work =
            self.values.chunks(share * self.depth * LANES).zip(sums.chunks_mut(share * count * LANES));
        let own = work.next();
        std::thread::scope(|scope| {
            for (panels, sums) in work {
                let packed = &packed;
                scope.spawn(move || multiply_panels(panels, packed, self.depth, count, sums));
            }
            if let Some((panels, sums)) = own {
                multiply_panels(panels, &packed, self.depth, count, sums);
            }
        });
        self.unpack(&sums, count)
    }

    /// From `[panel][count][16]` to `[count][rows]`.
    fn unpack(&self, sums: &[f32], count: usize) -> Vec<f32> {
        let mut output = vec![0.0; count * self.rows];
        for (index, vector) in output.chunks_exact_mut(self.rows).enumerate() {
            for (panel, part) in vector.chunks_mut(LANES).enumerate() {
                let start = (panel * count + index) * LANES;
                part.copy_from_slice(&sums[start..start + part.len()]);
            }
        }
        output
    }
}

/// Whole tiles as `[tile][depth][4]`, then the vectors that are left as they are.
fn pack(vectors: &[f32], depth: usize, count: usize) -> Vec<f32> {
    let tiled = count / TILE * TILE * depth;
    let mut packed = vectors.to_vec();
    for (tile, source) in
        packed[..tiled].chunks_exact_mut(TILE * depth).zip(vectors.chunks_exact(TILE * depth))
    {
        for (index, slot) in tile.iter_mut().enumerate() {
            *slot = source[index % TILE * depth + index / TILE];
        }
    }
    packed
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn multiply_panels(panels: &[f32], packed: &[f32], depth: usize, count: usize, sums: &mut [f32]) {
    let (tiles, singles) = packed.split_at(count / TILE * TILE * depth);
    for (panel, sums) in panels.chunks_exact(depth * LANES).zip(sums.chunks_exact_mut(count * LANES)) {
        let (panel, _) = panel.as_chunks::<LANES>();
        let (tile_sums, single_sums) = sums.split_at_mut(count / TILE * TILE * LANES);
        for (tile, out) in tiles.chunks_exact(TILE * depth).zip(tile_sums.chunks_exact_mut(TILE * LANES)) {
            let (tile, _) = tile.as_chunks::<TILE>();
            out.copy_from_slice(sum_tile(panel, tile).as_flattened());
        }
        for (single, out) in singles.chunks_exact(depth).zip(single_sums.chunks_exact_mut(LANES)) {
            let (single, _) = single.as_chunks::<1>();
            out.copy_from_slice(sum_tile(panel, single).as_flattened());
        }
    }
}

/// `T` x 16 sums side by side; the loop over depth is the order of every one of them.
///
/// Lanes outside, vectors inside: the other nesting compiles to scalar code below `opt-level = 3`.
#[inline(always)]
fn sum_tile<const T: usize>(panel: &[[f32; LANES]], vectors: &[[f32; T]]) -> [[f32; LANES]; T] {
    let mut sums = [[0f32; LANES]; T];
    for (weights, inputs) in panel.iter().zip(vectors) {
        for (lane, weight) in weights.iter().enumerate() {
            for (sum, input) in sums.iter_mut().zip(inputs) {
                sum[lane] += weight * input;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::splitmix::SplitMix;

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut random = SplitMix::new(seed);
        (0..count).map(|_| random.next_unit()).collect()
    }

    #[test]
    fn every_shape_and_thread_count_gives_the_bits_of_the_plain_loop() {
        for (rows, depth, count) in [(1, 1, 1), (16, 5, 6), (35, 64, 13), (48, 144, 96), (700, 300, 8)] {
            let (matrix, vectors) = (random(rows * depth, 1), random(count * depth, 2));
            let mut expected = Vec::new();
            for vector in vectors.chunks_exact(depth) {
                for row in matrix.chunks_exact(depth) {
                    expected.push(row.iter().zip(vector).fold(0f32, |sum, (a, b)| sum + a * b).to_bits());
                }
            }
            for threads in [1, 2, 5] {
                let product = Panels::from_rows(&matrix, depth).multiply(&vectors, count, threads);
                let bits: Vec<u32> = product.iter().map(|value| value.to_bits()).collect();
                assert_eq!(bits, expected, "{rows} x {depth} x {count}, {threads} threads");
            }
        }
    }

    #[test]
    fn columns_are_the_transposed_rows() {
        let rows = random(20 * 33, 3);
        let mut columns = Vec::new();
        for column in 0..33 {
            columns.extend(rows.chunks_exact(33).map(|row| row[column]));
        }
        let vector = random(33, 4);
        let (by_rows, by_columns) = (Panels::from_rows(&rows, 33), Panels::from_columns(&columns, 20));
        assert_eq!(by_rows.multiply(&vector, 1, 1), by_columns.multiply(&vector, 1, 1));
    }
}
