//! How close a posix store whose bytes NIXL moves comes to a bare loop over NIXL's C calls: the same library, queue, staging, descriptors,
//! files and reservation, in turns.
//!
//! ```text
//! KVBRIDGE_NIXL=PATH cargo bench -p kv-storage --all-features --bench nixl -- [PLACE ...] [--rounds N] [--mib N ...]
//! ```
//!
//! `PATH` is a library of NIXL, its folder, or a site-packages folder with its wheel; the places are those of the bench `store_alone`. The bare
//! loop has one agent and two objects under way, each one request of as many descriptors as it has 8 MiB; it makes, reserves and registers
//! each file, and never pauses between its questions. The store has one thread of NIXL and two objects under way, and also draws names,
//! publishes, looks at lengths and at the end of every transfer. Nobody flushes. Files that are read were written in the same round, so they
//! come out of memory. The first round is dropped, and each of the two goes first in turn: measured always behind the same one, either came
//! out up to a tenth slower on ext4, whose deleted files are the next one's to clear up.
//!
//! Measured on two cores of a shared host, nothing else running (2026-12-01; the ratios of five runs of 10 to 20 rounds, least, median and most),
//! save and load: huge tmpfs 0.98 1.01 1.06 and 0.88 0.97 0.97 at 8 MiB, 0.98 1.03 1.07 and 0.96 1.01 1.06 at 80; tmpfs 0.93 0.95 1.00 and 0.95
//! 0.97 1.02, 0.95 0.98 0.99 and 0.96 0.99 1.05; ext4 0.90 1.10 1.86 and 0.99 0.99 1.05, 0.98 1.03 1.07 and 0.98 0.99 1.03.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a benchmark stops at the first error")]
#![expect(clippy::print_stdout, reason = "a benchmark's output is the terminal's")]
#![expect(clippy::cast_precision_loss, reason = "counts of bytes and nanoseconds far below 2^52")]

mod bare;
#[path = "../store_alone/figures.rs"]
mod figures;
#[expect(dead_code, reason = "the other bench uses more of it")]
#[path = "../store_alone/places.rs"]
mod places;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bare::Bare;
use figures::{Spread, ratio};
use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::{HostBuf, HugePages, StagingPool};
use kv_storage::posix::{FsyncPolicy, IoEngine};
use kv_storage::{KvStore, PosixOptions, PosixStore, Publication, ReadPart};
use places::Place;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Bytes of a staging buffer and of a descriptor.
const PART: usize = 8 << 20;
/// Objects under way.
const LANES: usize = 2;
/// Bytes that are moved each way in a turn, at least.
const TURN: usize = 480 << 20;

/// What one turn moves.
#[derive(Debug, Clone, Copy)]
struct Load {
    len: usize,
    objects: usize,
}

impl Load {
    fn rate(&self, took: Duration) -> f64 {
        (self.len * self.objects) as f64 / took.as_secs_f64() / 1e9
    }
}

fn name(object: usize) -> ObjectName {
    let chunk_index = u32::try_from(object).unwrap();
    ObjectName { namespace: NamespaceDigest([1; 32]), key: ChunkKey([2; 32]), chunk_index, slice: 0 }
}

/// Staging for every object under way.
fn staged(staging: &StagingPool, load: Load) -> Vec<Vec<HostBuf>> {
    let lane = || (0..load.len.div_ceil(PART)).map(|_| staging.try_acquire().unwrap()).collect();
    (0..LANES).map(|_| lane()).collect()
}

/// The store and the executor of its callers.
struct Store {
    runtime: Runtime,
    store: Arc<PosixStore>,
}

impl Store {
    fn open(root: &Path, staging: &StagingPool) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = root.join("store");
        std::fs::create_dir_all(&directory).unwrap();
        let options = PosixOptions::default().threads(2).io(IoEngine::Nixl).fixed_buffers(staging);
        let options = options.fsync(FsyncPolicy::None).format_if_empty(true);
        let store = runtime.block_on(PosixStore::open(&directory, options)).unwrap();
        Self { runtime, store: Arc::new(store) }
    }

    fn measure(&self, staging: &StagingPool, load: Load) -> [Duration; 2] {
        let saved = self.run(staged(staging, load), load, save);
        let loaded = self.run(staged(staging, load), load, load_one);
        assert_eq!(self.store.io_engine().redone(), 0, "NIXL failed");
        self.runtime.block_on(async {
            for object in 0..load.objects {
                assert!(self.store.delete(&name(object)).await.unwrap());
            }
        });
        [saved, loaded]
    }

    fn run<F>(
        &self,
        lanes: Vec<Vec<HostBuf>>,
        load: Load,
        work: impl Fn(Arc<PosixStore>, usize, Vec<HostBuf>) -> F + Copy + Send + 'static,
    ) -> Duration
    where
        F: Future<Output = Vec<HostBuf>> + Send,
    {
        self.runtime.block_on(async {
            let started = Instant::now();
            let mut tasks = JoinSet::new();
            for (lane, mut buffers) in lanes.into_iter().enumerate() {
                let store = Arc::clone(&self.store);
                tasks.spawn(async move {
                    for object in (lane..load.objects).step_by(LANES) {
                        buffers = work(Arc::clone(&store), object, buffers).await;
                    }
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
            started.elapsed()
        })
    }
}

async fn save(store: Arc<PosixStore>, object: usize, buffers: Vec<HostBuf>) -> Vec<HostBuf> {
    let upload = store.begin(&name(object), (buffers.len() * PART) as u64).await.unwrap();
    let writes = (0..).zip(buffers).map(|(part, buffer): (u64, _)| upload.write(part * PART as u64, buffer));
    let written = futures_util::future::join_all(writes).await;
    assert_eq!(upload.commit().await.unwrap(), Publication::Published);
    written.into_iter().map(|(buffer, result)| result.map(|()| buffer).unwrap()).collect()
}

async fn load_one(store: Arc<PosixStore>, object: usize, buffers: Vec<HostBuf>) -> Vec<HostBuf> {
    let parts =
        (0..).zip(buffers).map(|(part, buffer): (u64, _)| ReadPart { offset: part * PART as u64, buffer });
    let outcome = store.read(&name(object), parts.collect()).await;
    assert!(outcome.result.unwrap().is_some());
    outcome.buffers
}

fn main() {
    // Under `cargo test` cargo does not pass this flag, and nothing is to be measured.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (mut places, mut rounds, mut mib) = (Vec::new(), 7, Vec::new());
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|n| n.parse::<usize>().ok()).filter(|n| *n > 0).unwrap();
        match word.as_str() {
            "--rounds" => rounds = number(),
            "--mib" => mib.push(number()),
            place => {
                places.push(Place::named(place).unwrap_or_else(|| panic!("{place:?}: expected a place")))
            }
        }
    }
    if places.is_empty() {
        places = vec![Place::HugeTmpfs, Place::Tmpfs, Place::DiskCached];
    }
    if mib.is_empty() {
        mib = vec![8, 80];
    }
    let longest = mib.iter().max().unwrap() << 20;
    let staging = HugePages::allocate(LANES * longest.next_multiple_of(PART)).unwrap();
    let staging = StagingPool::new(staging, PART).unwrap();
    println!("GB/s, median (least-most) of {rounds} rounds; x: that by the bare loop's, of the same rounds");
    println!("{:<12} {:>7}  {:<11} {:<20} {:<18} {:<20} x", "place", "object", "what", "save", "x", "load");
    for place in places {
        match place.open() {
            Ok(mounted) => mib.iter().for_each(|mib| line(place, mounted.path(), &staging, *mib, rounds)),
            Err(why) => println!("{:<12} SKIPPED: {why}", place.name()),
        }
    }
}

fn line(place: Place, root: &Path, staging: &StagingPool, mib: usize, rounds: usize) {
    let len = (mib << 20).next_multiple_of(PART);
    let load = Load { len, objects: (TURN / len).max(LANES) };
    let store = Store::open(root, staging);
    let bare = Bare::open(root, staging);
    let mut rates = [[vec![], vec![]], [vec![], vec![]]];
    for round in 0..=rounds {
        // In turn each is the first and the second: what one leaves behind (dirty pages, freed blocks) is the next one's to bear.
        for thing in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let took = if thing == 0 { bare.measure(staging, load) } else { store.measure(staging, load) };
            for (rates, took) in rates[thing].iter_mut().zip(took).filter(|_| round > 0) {
                rates.push(load.rate(took));
            }
        }
    }
    let [bare, stored] = &rates;
    for (what, rates) in [("bare loop", bare), ("store", stored)] {
        let cells = [0, 1].map(|way| {
            let share = ratio(&rates[way], &bare[way]);
            format!("{:<20} {:<18}", Spread::of(&rates[way]).to_string(), share.to_string())
        });
        println!("{:<12} {mib:>3} MiB  {what:<11} {} {}", place.name(), cells[0], cells[1]);
    }
}
