//! A store that becomes slower when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kv_storage::parts::{Answer, Entry, Passage, Rule};
use kv_storage::{KvStore, Operation, Result};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant, sleep_until};

/// Lets bytes pass at a rate, once it is told to.
#[derive(Debug)]
pub(crate) struct Slow {
    rate: u64,
    slower: Arc<AtomicBool>,
    free_at: Mutex<Option<Instant>>,
}

pub(crate) fn slowing(inner: Arc<dyn KvStore>, rate: u64, slower: &Arc<AtomicBool>) -> Passage<Slow> {
    Passage::through(inner, Slow { rate, slower: Arc::clone(slower), free_at: Mutex::default() })
}

impl Rule for Slow {
    type Pass = ();

    async fn enter(&self, entry: Entry) -> Result<()> {
        if !self.slower.load(Ordering::Relaxed)
            || !matches!(entry.operation, Operation::Read | Operation::Write)
        {
            return Ok(());
        }
        let mut free_at = self.free_at.lock().await;
        let begin = free_at.unwrap_or_else(Instant::now).max(Instant::now());
        let end = begin + Duration::from_secs_f64(entry.bytes as f64 / self.rate as f64);
        *free_at = Some(end);
        drop(free_at);
        sleep_until(end).await;
        Ok(())
    }

    fn leave(&self, (): (), _: Answer<'_>) {}
}
