//! What a simulation replaces: time, randomness, and the points at which a process may die.
//!
//! Stores and pipelines never ask the system directly; they hold an [`Environment`]. Tests give one with a seeded source of
//! randomness, a clock they drive, or crash points that kill the process.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time: a monotonic clock for deadlines, and wall time for what other hosts read.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Monotonic time since an arbitrary origin of this clock.
    fn now(&self) -> Duration;
    /// Milliseconds since 1970 UTC; may jump, so it is used only in records that other hosts read.
    fn unix_millis(&self) -> u64;
    /// Completes `duration` from now.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Randomness for names that must not collide between processes and hosts.
pub trait Entropy: fmt::Debug + Send + Sync + 'static {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// A named place between two steps of a publication or a hand-off, at which a test may kill the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CrashPoint(pub &'static str);

/// What happens when the code passes a crash point; in production nothing.
pub trait CrashPoints: fmt::Debug + Send + Sync + 'static {
    /// The code reached `point`.
    fn reach(&self, point: CrashPoint);
}

/// The three together; cheap to clone.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Crash points.
    pub crash_points: Arc<dyn CrashPoints>,
}

impl Default for Environment {
    /// The system's clock (through tokio's timers), the system's randomness, and crash points that do nothing.
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock { origin: tokio::time::Instant::now() }),
            entropy: Arc::new(SystemEntropy),
            crash_points: Arc::new(NoCrash),
        }
    }
}

/// Tokio's clock, which tests may pause.
#[derive(Debug)]
struct SystemClock {
    origin: tokio::time::Instant,
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the system for wall time")]
    fn unix_millis(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The operating system's randomness.
#[derive(Debug)]
struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn next_u64(&self) -> u64 {
        // A system without randomness still has distinct processes at distinct instants; collisions only cost a retry.
        getrandom::u64().unwrap_or_else(|_| {
            let instant = format!("{:?} {}", Instant::now(), std::process::id());
            instant.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
        })
    }
}

/// Crash points in production.
#[derive(Debug)]
struct NoCrash;

impl CrashPoints for NoCrash {
    fn reach(&self, _: CrashPoint) {}
}
