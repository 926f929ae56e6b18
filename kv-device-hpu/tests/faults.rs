//! A save and a load through a pipeline in which something fails: any call, memory, the device in the midst of a copy, the caller.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use kv_device::ErrorKind;
use kv_device_hpu::HpuDevice;
use kv_pipeline::{LoadRequest, SaveRequest};
use kv_storage::MemoryStore;
use support::rank::{CHUNK, Rank, snapshot, tokens};
use support::{Fake, settled_leaks};

const COUNT: u32 = 2 * CHUNK;

/// A tool's whole life: opens, fills its blocks, saves them, loads them into others, closes.
async fn save_and_load(fake: &Fake, heads: u32) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let device = fake.own().map_err(|error| text(&error))?;
    let store = MemoryStore::new();
    let saver =
        Rank::new(&device, Arc::clone(&device), &store, heads, &[2, 0]).map_err(|error| text(&error))?;
    let saved = match saver.prefill(COUNT) {
        Ok(()) => saver.save(COUNT).await.map(drop).map_err(|error| text(&error)),
        Err(error) => Err(text(&error)),
    };
    let closed = saver.close().await.map_err(|error| text(&error));
    saved.and(closed)?;
    let loader =
        Rank::new(&device, Arc::clone(&device), &store, heads, &[1, 3]).map_err(|error| text(&error))?;
    let loaded = loader.load(COUNT).await.map_err(|error| text(&error));
    let found = match &loaded {
        Ok(loaded) if loaded.tokens == COUNT => loader.snapshot().map_err(|error| text(&error)),
        Ok(loaded) => Err(format!("{:?}", loaded.failures)),
        Err(error) => Err(error.clone()),
    };
    let expected = loader.expected(COUNT);
    let closed = loader.close().await.map_err(|error| text(&error));
    let found = found?;
    assert!(found == expected, "what was loaded is not what was saved");
    closed
}

#[tokio::test]
async fn whichever_call_fails_everything_is_given_back() {
    for heads in [1, 2] {
        let fake = Fake::new();
        save_and_load(&fake, heads).await.unwrap();
        assert_eq!(settled_leaks(&fake), "");
        let calls = fake.tell("log").lines().count();
        assert!(calls > 60, "{calls} calls");
        let mut failed = 0;
        for call in 1..=calls {
            fake.tell("clear");
            fake.tell(&format!("fail * {call} 26"));
            let outcome = save_and_load(&fake, heads).await;
            fake.tell("no-faults");
            let log = fake.tell("log");
            let symbol = log.lines().nth(call - 1).unwrap_or("none").to_owned();
            assert_eq!(settled_leaks(&fake), "", "{heads} heads, call {call}, {symbol}: {outcome:?}");
            if let Err(error) = outcome {
                assert!(error.contains(&symbol), "call {call}, {symbol}: {error}");
                failed += 1;
            }
        }
        // The others give something back, and are asked twice.
        assert!(failed * 2 > calls, "{failed} of {calls}");
    }
}

#[tokio::test]
async fn a_device_that_is_lost_in_the_midst_of_a_copy_ends_everything() {
    for thousandths in [0, 500, 1000] {
        for (copy, saving) in [(1, true), (4, true), (2, false)] {
            let fake = Fake::new();
            let device = fake.own().unwrap();
            let store = MemoryStore::new();
            let saver = Rank::new(&device, Arc::clone(&device), &store, 2, &[2, 0]).unwrap();
            saver.prefill(COUNT).unwrap();
            let lose = || fake.tell(&format!("lose-device {copy} {thousandths}"));
            if saving {
                lose();
                let error = saver.save(COUNT).await.unwrap_err();
                assert_eq!(error.kind(), kv_pipeline::ErrorKind::Device, "{error}");
                assert!(error.to_string().contains("restart this one"), "{error}");
            } else {
                saver.save(COUNT).await.unwrap();
                let loader = Rank::new(&device, Arc::clone(&device), &store, 2, &[1, 3]).unwrap();
                lose();
                let error = loader.load(COUNT).await.unwrap_err();
                assert_eq!(error.kind(), kv_pipeline::ErrorKind::Device, "{error}");
                assert_eq!(loader.kv.staging().bytes_lent, 0, "the buffers are back");
                loader.close().await.unwrap_err();
            }
            assert_eq!(saver.kv.staging().bytes_lent, 0, "the buffers are back");
            assert!(device.session().is_lost());
            // Nobody knows what the device still writes: the engine must keep its memory.
            assert!(saver.close().await.unwrap_err().to_string().contains("until the process ends"));
            let error = device.allocate(4096).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
        }
    }
}

#[tokio::test]
async fn memory_that_is_exhausted_is_told_and_nothing_is_kept() {
    let fake = Fake::new();
    let device = fake.own().unwrap();
    fake.tell("device-limit 65536");
    assert_eq!(device.allocate(1 << 17).unwrap_err().kind(), ErrorKind::OutOfMemory);
    fake.tell("set map-limit 65536");
    let staging = kv_device::Device::allocate_staging(&*device, 1 << 17).unwrap_err();
    assert_eq!(staging.kind(), ErrorKind::OutOfMemory);
    assert!(staging.to_string().contains("synHostMap returned synOutOfHostMemory (3)"), "{staging}");
    drop(device);
    assert_eq!(settled_leaks(&fake), "");
}

/// Cancels a load after so many turns of the executor: from then on nothing changes in its blocks, whatever the device still has.
async fn cancelled_after(turns: usize, store: &MemoryStore) -> bool {
    let fake = Fake::new();
    let engine = fake.own().unwrap();
    let device = HpuDevice::attach(&fake.options()).unwrap();
    let rank = Rank::new(&engine, Arc::clone(&device), store, 2, &[1, 3]).unwrap();
    let tokens = tokens(COUNT);
    let request = LoadRequest::new(&tokens).blocks(&rank.blocks);
    let load = rank.kv.consumer().load(&rank.registered, request).unwrap();
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
    load.cancel().await.unwrap();
    let after = rank.snapshot().unwrap();
    let (memory, kv) = (Arc::clone(&rank.memory), rank.kv.clone());
    assert_eq!(kv.staging().bytes_lent, 0, "after {turns} turns");
    // Returning the device's streams runs whatever they still have.
    rank.close().await.unwrap();
    drop((kv, device));
    assert!(snapshot(&memory).unwrap() == after, "a block was written after cancel, {turns} turns");
    let complete = after.concat().iter().filter(|byte| **byte != 0xEE).count() > after.concat().len() / 4;
    drop((memory, engine));
    assert_eq!(settled_leaks(&fake), "", "after {turns} turns");
    complete
}

#[tokio::test]
async fn a_save_that_is_cancelled_at_any_turn_keeps_nothing() {
    for turns in 0..40 {
        let (fake, store) = (Fake::new(), MemoryStore::new());
        let device = fake.own().unwrap();
        let rank = Rank::new(&device, Arc::clone(&device), &store, 2, &[2, 0]).unwrap();
        rank.prefill(COUNT).unwrap();
        let tokens = tokens(COUNT);
        let request = SaveRequest::new(&tokens).blocks(&rank.blocks);
        let save = rank.kv.producer().save(&rank.registered, request).unwrap();
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        save.cancel().await.unwrap();
        assert_eq!(rank.kv.staging().bytes_lent, 0, "after {turns} turns");
        rank.close().await.unwrap();
        drop(device);
        assert_eq!(settled_leaks(&fake), "", "after {turns} turns");
    }
}

#[tokio::test]
async fn a_load_that_is_cancelled_at_any_turn_writes_nothing_afterwards() {
    let fake = Fake::new();
    let device = fake.own().unwrap();
    let store = MemoryStore::new();
    let saver = Rank::new(&device, Arc::clone(&device), &store, 2, &[2, 0]).unwrap();
    saver.prefill(COUNT).unwrap();
    saver.save(COUNT).await.unwrap();
    saver.close().await.unwrap();
    let mut written = Vec::new();
    for turns in 0..40 {
        written.push(cancelled_after(turns, &store).await);
    }
    assert!(!written[0], "cancelled before it began");
}
