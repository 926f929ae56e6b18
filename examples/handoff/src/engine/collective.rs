//! What the ranks of a tensor-parallel group say to each other.

use anyhow::{Context, Result, ensure};

/// A group of ranks that all make the same calls in the same order.
///
/// Everything is built on one operation, so an implementation has one thing to get right.
pub trait Collective: Send {
    /// This rank.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Gives `mine` to everybody, and returns what each rank gave, in rank order.
    ///
    /// # Errors
    /// A rank is gone, or did not answer in time.
    fn exchange(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Concatenates every rank's vector in rank order; `lens` are their lengths.
    ///
    /// # Errors
    /// As for [`exchange`](Self::exchange), or a rank gave a vector of another length.
    fn all_gather(&mut self, mine: &[f32], lens: &[usize]) -> Result<Vec<f32>> {
        let bytes: Vec<u8> = mine.iter().flat_map(|value| value.to_le_bytes()).collect();
        let parts = self.exchange(&bytes)?;
        let mut all = Vec::with_capacity(lens.iter().sum());
        for (rank, (part, len)) in parts.iter().zip(lens).enumerate() {
            let (values, rest) = part.as_chunks();
            ensure!(
                values.len() == *len && rest.is_empty(),
                "rank {rank} gave {} bytes where {len} numbers were due",
                part.len()
            );
            all.extend(values.iter().map(|value| f32::from_le_bytes(*value)));
        }
        Ok(all)
    }

    /// Rank 0's bytes; what other ranks pass is ignored.
    ///
    /// # Errors
    /// As for [`exchange`](Self::exchange).
    fn broadcast(&mut self, from_leader: &[u8]) -> Result<Vec<u8>> {
        let mine = if self.rank() == 0 { from_leader } else { &[] };
        self.exchange(mine)?.into_iter().next().context("the group has no leader")
    }

    /// The smallest of all ranks' numbers.
    ///
    /// # Errors
    /// As for [`exchange`](Self::exchange).
    fn all_min(&mut self, mine: u64) -> Result<u64> {
        let parts = self.exchange(&mine.to_le_bytes())?;
        let numbers: Result<Vec<u64>> = parts.iter().map(|part| number(part)).collect();
        numbers?.into_iter().min().context("the group is empty")
    }
}

fn number(bytes: &[u8]) -> Result<u64> {
    let bytes = bytes.try_into().context("a rank gave something else than a number")?;
    Ok(u64::from_le_bytes(bytes))
}

/// A group of one.
#[derive(Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![mine.to_vec()])
    }
}
