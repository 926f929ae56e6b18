//! The store that is tried, and what the checks share: names that nobody has, bytes, and the list of what is to be removed.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_format::{InputDigest, ObjectName, RecordName};
use kv_memory::HostBuf;

use crate::env::Environment;
use crate::health::{probe_name, random};
use crate::{Error, KvStore, Publication, ReadPart, Upload};

pub(super) struct Trial {
    pub(super) store: Arc<dyn KvStore>,
    pub(super) environment: Environment,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    objects: Vec<ObjectName>,
    records: Vec<RecordName>,
}

/// An error as a check says it.
pub(super) fn said(error: Error) -> String {
    format!("{:?}: {error}", error.kind())
}

impl Trial {
    pub(super) fn new(store: Arc<dyn KvStore>, environment: Environment) -> Self {
        Self { store, environment, written: Mutex::default() }
    }

    pub(super) fn now(&self) -> Duration {
        self.environment.clock.now()
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A check's outcome, or that it had none in time.
    pub(super) async fn in_time<T>(
        &self,
        allowed: Duration,
        check: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        tokio::select! {
            biased;
            outcome = check => outcome,
            () = self.environment.clock.sleep(allowed) => Err(format!("no end within {allowed:?}: a call hangs")),
        }
    }

    /// An object's name that nobody has; removed at the end.
    pub(super) fn name(&self) -> ObjectName {
        let name = probe_name(&self.environment);
        self.written().objects.push(name);
        name
    }

    /// Every object's name so far.
    pub(super) fn names(&self) -> Vec<ObjectName> {
        self.written().objects.clone()
    }

    /// A record's name that nobody has; removed at the end.
    pub(super) fn record(&self) -> RecordName {
        let mut name = RecordName::request("", 0);
        name.digest = InputDigest(random(&self.environment));
        self.written().records.push(name);
        name
    }

    /// A buffer of random bytes.
    pub(super) fn buffer(&self, len: usize) -> Result<HostBuf, String> {
        let mut bytes = vec![0; len];
        let seed: [u8; 64] = random(&self.environment);
        // A pattern that does not repeat at a page, from few random numbers.
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = seed[index % 61].wrapping_add(seed[index / 61 % 64]);
        }
        HostBuf::copy_of(&bytes).map_err(|error| format!("the probe's own memory: {error}"))
    }

    /// Starts an upload and writes all of it, the last part first.
    pub(super) async fn upload(&self, name: &ObjectName, bytes: &[u8]) -> Result<Box<dyn Upload>, String> {
        let upload = self.store.begin(name, bytes.len() as u64).await.map_err(said)?;
        let middle = bytes.len() / 2;
        for (offset, part) in [(middle, &bytes[middle..]), (0, &bytes[..middle])] {
            let part = HostBuf::copy_of(part).map_err(|error| format!("the probe's own memory: {error}"))?;
            upload.write(offset as u64, part).await.1.map_err(said)?;
        }
        Ok(upload)
    }

    /// Publishes `bytes` under a free name.
    pub(super) async fn publish(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), String> {
        match self.upload(name, bytes).await?.commit().await.map_err(said)? {
            Publication::Published => Ok(()),
            Publication::AlreadyExists => Err("a commit of a free name answered AlreadyExists".to_owned()),
        }
    }

    /// A range of an object.
    pub(super) async fn read(
        &self,
        name: &ObjectName,
        offset: u64,
        len: usize,
    ) -> crate::Result<Option<Vec<u8>>> {
        let memory = |error| {
            Error::new(crate::ErrorKind::Invalid, &self.store, "the probe's own memory").with_source(error)
        };
        let mut buffer = HostBuf::allocate(len.max(1)).map_err(memory)?;
        buffer.set_len(len).map_err(memory)?;
        buffer.fill(0xa5);
        let outcome = self.store.read(name, vec![ReadPart { offset, buffer }]).await;
        let found = outcome.result?.is_some();
        Ok(found.then(|| outcome.buffers.first().map(|buffer| buffer.to_vec()).unwrap_or_default()))
    }

    /// Says what is wrong unless the object is exactly `bytes`.
    pub(super) async fn expect(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), String> {
        let len = self.store.head(name).await.map_err(said)?.map(|meta| meta.len);
        if len != Some(bytes.len() as u64) {
            return Err(format!("a published object of {} bytes: head finds {len:?}", bytes.len()));
        }
        match self.read(name, 0, bytes.len()).await.map_err(said)? {
            None => Err("a published object is not there to be read".to_owned()),
            Some(read) => match read.iter().zip(bytes).position(|(read, byte)| read != byte) {
                None if read.len() == bytes.len() => Ok(()),
                differs => Err(format!(
                    "of {} bytes that were read, byte {differs:?} is not what was written",
                    bytes.len()
                )),
            },
        }
    }

    /// Removes all that the checks may have left.
    pub(super) async fn remove_all(&self) -> Result<String, String> {
        let Written { objects, records } = std::mem::take(&mut *self.written());
        let mut last = Ok(String::new());
        for name in objects {
            last = self.store.delete(&name).await.map(|_| String::new()).map_err(said).and(last);
        }
        for name in records {
            last = self.store.delete_record(&name).await.map(|_| String::new()).map_err(said).and(last);
        }
        last
    }
}
