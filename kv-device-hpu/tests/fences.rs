//! The engine works late: a save waits for what it has queued, and a load announces no layer before its last byte is there.

mod support;

use std::sync::Arc;

use kv_device::Fence;
use kv_device_hpu::{HpuDevice, SynapseFence};
use kv_pipeline::{LoadRequest, SaveRequest};
use kv_storage::MemoryStore;
use support::Fake;
use support::rank::{CHUNK, LAYERS, PATIENCE, Rank, tokens};

const COUNT: u32 = 2 * CHUNK;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_waits_for_the_engines_late_writes() {
    let fake = Fake::new();
    let engine = fake.own().unwrap();
    let device = HpuDevice::attach(&fake.options()).unwrap();
    let store = MemoryStore::new();
    let rank = Rank::new(&engine, Arc::clone(&device), &store, 2, &[2, 0]).unwrap();
    // The engine's last kernel writes the last V: it is queued, and does not run yet.
    let last = rank.memory.last().unwrap();
    let handle = last.stream().handle().addr();
    let bytes = rank.expected(COUNT).pop().unwrap();
    for (part, bytes) in rank.memory.iter().zip(rank.expected(COUNT)).take(rank.memory.len() - 1) {
        part.write(0, &bytes).unwrap();
    }
    fake.tell(&format!("hold {handle}"));
    std::thread::scope(|scope| {
        let copies = fake.count("synMemCopyAsyncMultiple");
        let writes = scope.spawn(move || last.write(0, &bytes));
        while fake.count("synMemCopyAsyncMultiple") == copies {
            std::thread::yield_now();
        }
        let fence: Arc<dyn Fence> = SynapseFence::record_own(&device, last.stream()).unwrap();
        let tokens = tokens(COUNT);
        let request = SaveRequest::new(&tokens).blocks(&rank.blocks).after(fence).timeout(PATIENCE);
        let save = rank.kv.producer().save(&rank.registered, request).unwrap();
        let queries = fake.count("synEventQuery");
        while fake.count("synEventQuery") < queries + 3 {
            std::thread::yield_now();
        }
        assert_eq!(device.counts().gathered.transfers, 0, "nothing is gathered before the engine is ready");
        fake.tell(&format!("release {handle}"));
        writes.join().unwrap().unwrap();
        let saved = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(save.finish()));
        assert_eq!(saved.unwrap().tokens, COUNT);
    });
    // What was saved is what the engine wrote late.
    let loader = Rank::new(&engine, Arc::clone(&device), &store, 2, &[1, 3]).unwrap();
    assert_eq!(loader.load(COUNT).await.unwrap().tokens, COUNT);
    assert!(loader.snapshot().unwrap() == loader.expected(COUNT), "stale bytes were saved");
    loader.close().await.unwrap();
    rank.close().await.unwrap();
}

#[tokio::test]
async fn no_layer_is_announced_before_its_last_byte() {
    let fake = Fake::new();
    let engine = fake.own().unwrap();
    let device = HpuDevice::attach(&fake.options()).unwrap();
    let store = MemoryStore::new();
    let saver = Rank::new(&engine, Arc::clone(&device), &store, 2, &[2, 0]).unwrap();
    saver.prefill(COUNT).unwrap();
    saver.save(COUNT).await.unwrap();
    saver.close().await.unwrap();
    let rank = Rank::new(&engine, Arc::clone(&device), &store, 2, &[1, 3]).unwrap();
    let (tokens, expected) = (tokens(COUNT), rank.expected(COUNT));
    let request = LoadRequest::new(&tokens).blocks(&rank.blocks).timeout(PATIENCE);
    let mut load = rank.kv.consumer().load(&rank.registered, request).unwrap();
    let mut announced = 0;
    while let Some(layer) = load.next_layer().await.unwrap() {
        // Lazy streams: what was not waited for is not there.
        for region in [2 * layer, 2 * layer + 1] {
            let region = usize::try_from(region).unwrap();
            let mut bytes = vec![0; expected[region].len()];
            rank.memory[region].read(0, &mut bytes).unwrap();
            assert!(bytes == expected[region], "layer {layer} was announced too early");
        }
        announced += 1;
    }
    assert_eq!(announced, LAYERS);
    load.finish().await.unwrap();
    rank.close().await.unwrap();
}
