//! A flag that says "stop": set once, seen by every thread and every task.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Cloned handles share one flag.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Shared>);

/// The flag twice: threads wait on the one, tasks on the other.
#[derive(Debug, Default)]
struct Shared {
    flag: Mutex<bool>,
    changed: Condvar,
    told: watch::Sender<bool>,
}

impl Stop {
    /// Sets the flag.
    pub fn set(&self) {
        *self.0.flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
        self.0.told.send_replace(true);
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.0.flag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until the flag is set, or for `patience`; returns whether it is set.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        let guard = self.0.flag.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.changed.wait_timeout_while(guard, patience, |set| !*set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Completes when the flag is set.
    pub async fn told(&self) {
        // The sender lives as long as this handle, so this ends for no other reason.
        let _ = self.0.told.subscribe().wait_for(|told| *told).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_sees_the_flag_set_by_another_thread() {
        let stop = Stop::default();
        assert!(!stop.wait(Duration::ZERO));
        let other = stop.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        stop.set();
        assert!(waiter.join().unwrap());
        assert!(stop.is_set());
    }

    #[tokio::test]
    async fn a_task_sees_the_flag_set_before_and_after_it_asks() {
        let stop = Stop::default();
        let other = stop.clone();
        let task = tokio::spawn(async move { other.told().await });
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        stop.set();
        task.await.unwrap();
        stop.told().await;
    }
}
