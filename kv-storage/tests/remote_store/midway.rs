//! Loads and saves that are interrupted in the middle: the same for every test of a path that stops.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_format::ObjectName;
use kv_memory::HostBuf;
use kv_storage::{ByteRange, KvStore, Next, ObjectMeta, Publication, ReadSink, Result, Vast};

/// Longer than what sockets hold.
pub(crate) const LONG: usize = 24 << 20;
pub(crate) const PART: usize = 1 << 20;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

type Halfway = Box<dyn FnOnce() + Send>;

/// What the object of a name holds.
pub(crate) fn bytes(name: &ObjectName, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap() ^ name.key.0[0]).collect()
}

/// Writes an object in order, and does something before each part of its second half.
pub(crate) async fn save(
    store: &Vast,
    name: &ObjectName,
    len: usize,
    mut half: impl FnMut(),
) -> Result<Publication> {
    let bytes = bytes(name, len);
    let upload = store.begin(name, len as u64).await?;
    for (offset, part) in (0..).step_by(PART).zip(bytes.chunks(PART)) {
        if offset >= (len / 2) as u64 {
            half();
        }
        upload.write(offset, HostBuf::copy_of(part).unwrap()).await.1?;
    }
    upload.commit().await
}

/// Notes which ranges were right, and does something after the first.
pub(crate) struct Handed {
    expected: Vec<u8>,
    after_the_first: Mutex<Option<Halfway>>,
    handed: Mutex<Vec<usize>>,
}

impl Handed {
    /// Every range was handed over once, and the first came first.
    pub(crate) fn each_once(&self) {
        let mut handed = self.handed.lock().unwrap().clone();
        assert_eq!(handed[0], 0, "the first range comes first");
        handed.sort_unstable();
        assert_eq!(handed, (0..LONG / PART).collect::<Vec<_>>());
    }
}

impl ReadSink for Handed {
    fn filled(&self, _: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        assert!(buffer[..] == self.expected[index * PART..(index + 1) * PART], "range {index} is wrong");
        self.handed.lock().unwrap().push(index);
        if let Some(halfway) = self.after_the_first.lock().unwrap().take() {
            halfway();
        }
        Next::Reuse(buffer)
    }
}

/// Reads an object of [`LONG`] bytes; `None`: a miss.
pub(crate) async fn load(
    store: &Vast,
    name: &ObjectName,
    after_the_first: Option<Halfway>,
) -> Option<Arc<Handed>> {
    let sink = Arc::new(Handed {
        expected: bytes(name, LONG),
        after_the_first: Mutex::new(after_the_first),
        handed: Mutex::default(),
    });
    let ranges = (0..LONG).step_by(PART).map(|offset| ByteRange { offset: offset as u64, len: PART });
    let blank = || HostBuf::copy_of(&[0xee; PART]).unwrap();
    let reading =
        store.read_into(name, ranges.collect(), vec![blank(), blank()], Arc::<Handed>::clone(&sink));
    let read = tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap()?;
    assert_eq!(read.len, LONG as u64);
    sink.each_once();
    Some(sink)
}
