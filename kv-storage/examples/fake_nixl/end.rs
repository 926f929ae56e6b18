//! What a plugin does at the end of the process, as the AWS SDK of OBJ does: it cleans up, and dies if an agent is destroyed meanwhile or later.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::machine::die;

static DESTROYING: AtomicUsize = AtomicUsize::new(0);
static PROCESS_ENDS: AtomicBool = AtomicBool::new(false);
static CLEANED: AtomicBool = AtomicBool::new(false);

/// Longest wait for the end of the process, and how long the destruction goes on from there: a cleaner that nobody keeps comes meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
const LONGER: Duration = Duration::from_millis(200);

extern "C" fn clean() {
    CLEANED.store(true, Ordering::SeqCst);
    if DESTROYING.load(Ordering::SeqCst) > 0 {
        die("the plugin cleans up while an agent is destroyed");
    }
}

extern "C" fn process_ends() {
    PROCESS_ENDS.store(true, Ordering::SeqCst);
}

/// A plugin is used: from the first time on its cleaner is called at the end of the process.
pub(crate) fn loaded() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        // SAFETY: the function takes nothing, and the library stays loaded.
        unsafe { libc::atexit(clean) };
    });
}

/// Destroys an agent, which takes until the process ends if `sign` is given: the file is made once it has begun.
pub(crate) fn destroy(sign: Option<&str>, destroy: impl FnOnce() -> i32) -> i32 {
    DESTROYING.fetch_add(1, Ordering::SeqCst);
    if CLEANED.load(Ordering::SeqCst) {
        die("an agent is destroyed after its plugin has cleaned up");
    }
    if let Some(sign) = sign {
        // SAFETY: as in `loaded`. The last to come is the first to be called.
        unsafe { libc::atexit(process_ends) };
        drop(std::fs::write(sign, ""));
        let begun = Instant::now();
        while !PROCESS_ENDS.load(Ordering::SeqCst) && begun.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
        std::thread::sleep(LONGER);
    }
    let status = destroy();
    DESTROYING.fetch_sub(1, Ordering::SeqCst);
    status
}
