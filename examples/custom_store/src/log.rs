//! The backend: where the bytes of a name are, and how blocking calls reach the file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_storage::parts::{Admission, DEFAULT_STRANDED_BOUND, Workers};
use kv_storage::{Error, ErrorKind, Result, Version};

/// Objects and records in one file. A clone is another handle to the same store.
#[derive(Debug, Clone)]
pub struct LogStore {
    label: Arc<str>,
    file: Arc<File>,
    index: Arc<Mutex<Index>>,
    workers: Arc<Workers>,
    pub(crate) admission: Admission,
}

/// What stands under each name, and what was handed out so far.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) entries: BTreeMap<String, Extent>,
    end: u64,
    changes: u64,
}

/// Bytes of the file that one name points to. No other extent ever has the same version.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) version: Version,
}

impl LogStore {
    /// Creates the file. It must not exist: this store does not read what another left.
    ///
    /// # Errors
    /// [`Backend`](ErrorKind::Backend) if the file cannot be created, or exists.
    pub fn create(path: &Path) -> Result<Self> {
        let label: Arc<str> = format!("log:{}", path.display()).into();
        let file = File::create_new(path).map_err(|error| failed(&label, error))?;
        let admission = Admission::new(DEFAULT_STRANDED_BOUND);
        // Two threads beside those that hang; beyond 64 calls that wait for one, callers wait.
        let workers = Arc::new(Workers::new(label.to_string(), 2, 64, admission.clone()));
        Ok(Self { label, file: Arc::new(file), index: Arc::default(), workers, admission })
    }

    /// The index; every critical section is a few steps in memory.
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on a thread that may block. The buffers go along: if the caller leaves, they stay with the thread until it is done.
    pub(crate) async fn call<B: Send + 'static>(
        &self,
        buffers: B,
        work: impl FnOnce(&File, &mut B) -> io::Result<()> + Send + 'static,
    ) -> (B, Result<()>) {
        let (file, label) = (Arc::clone(&self.file), Arc::clone(&self.label));
        let work = move |buffers: &mut B| work(&file, buffers).map_err(|error| failed(label, error));
        self.workers.run(buffers, work).await
    }
}

impl Index {
    /// Sets bytes aside that nobody else ever writes.
    pub(crate) fn reserve(&mut self, len: u64) -> Option<u64> {
        let offset = self.end;
        self.end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok())?;
        Some(offset)
    }

    /// Points `name` to `(offset, bytes)` or to nothing, if what stands there is as `expected`; the new version.
    pub(crate) fn change(
        &mut self,
        name: &str,
        expected: impl FnOnce(Option<&Extent>) -> bool,
        place: Option<(u64, u64)>,
    ) -> Option<Version> {
        if !expected(self.entries.get(name)) {
            return None;
        }
        self.changes += 1;
        let version = Version(self.changes.to_string());
        match place {
            Some((offset, len)) => {
                self.entries.insert(name.to_owned(), Extent { offset, len, version: version.clone() })
            }
            None => self.entries.remove(name),
        };
        Some(version)
    }
}

impl fmt::Display for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// What went wrong, by what the caller does about it.
fn failed(store: impl fmt::Display, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Backend,
    };
    Error::new(kind, store, error.to_string()).with_source(error)
}
