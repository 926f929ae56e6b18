//! Whatever fails: the buffer comes back, nothing is left behind, and nothing is written once the caller was told that it ended.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

#[path = "support/scene.rs"]
mod scene;
mod support;

use std::task::{Context, Poll, Waker};

use kv_device::conformance::Engine as _;
use kv_device::{Device as _, ErrorKind, Result};
use scene::Scene;
use support::{FakeHip, HipEngine};

/// A save and a load of one chunk, from opening the device to closing the memory; what is left behind is the fake's to tell.
async fn save_and_load(fake: &FakeHip) -> Result<()> {
    let engine = fake.engine_with(fake.options())?;
    let scene = Scene::new(&engine, 2, 16, 2)?;
    let transfer = scene.transfer(100);
    let (saved, outcome) = scene.registered.gather(scene.request(&transfer, 0).await).await;
    let outcome = match outcome {
        Ok(()) => {
            let mut request = scene.request(&transfer, 0).await;
            request.staging.copy_from_slice(&saved);
            scene.registered.scatter(request).await.1
        }
        failed => failed,
    };
    drop(saved);
    assert_eq!(scene.pool.usage().bytes_lent, 0);
    let closed = scene.registered.close().await;
    outcome.and(closed)
}

#[tokio::test]
async fn every_call_may_fail_and_nothing_is_left() {
    let fake = FakeHip::new(&[]);
    fake.tell("clear");
    save_and_load(&fake).await.unwrap();
    assert_eq!(fake.tell("leaks"), "");
    let calls: Vec<String> = fake.tell("log").lines().map(str::to_owned).collect();
    assert!(calls.len() > 50, "{calls:?}");
    let mut failures = 0;
    for (index, symbol) in calls.iter().enumerate() {
        fake.tell("reset");
        fake.tell(&format!("fail * {} 999", index + 1));
        match save_and_load(&fake).await {
            Ok(()) => {}
            Err(error) => {
                failures += 1;
                assert!(
                    matches!(error.kind(), ErrorKind::DeviceLost | ErrorKind::Vendor),
                    "{index} {symbol}: {error}"
                );
                assert!(
                    error.to_string().contains("code") || error.to_string().contains("999"),
                    "{symbol}: {error}"
                );
            }
        }
        assert_eq!(fake.tell("leaks"), "", "call {index}, {symbol}, failed");
    }
    assert!(failures * 2 > calls.len(), "{failures} of {} calls matter", calls.len());
}

#[tokio::test]
async fn an_error_that_is_not_fatal_leaves_a_device_that_works() {
    let fake = FakeHip::new(&[]);
    let engine = fake.engine();
    let scene = Scene::new(&engine, 2, 16, 1).unwrap();
    let transfer = scene.transfer(100);
    for symbol in ["hipModuleLaunchKernel", "hipMemcpyAsync", "hipEventRecord", "hipEventSynchronize"] {
        fake.tell(&format!("fail {symbol} 1 1"));
        for gathers in [true, false] {
            let request = scene.request(&transfer, 3).await;
            let (staging, outcome) = match gathers {
                true => scene.registered.gather(request).await,
                false => scene.registered.scatter(request).await,
            };
            // The first of the two meets the fault.
            assert_eq!(outcome.is_err(), gathers, "{symbol}: {outcome:?}");
            if let Err(error) = outcome {
                assert_eq!(error.kind(), ErrorKind::Vendor);
                assert!(error.to_string().contains(symbol), "{error}");
            }
            drop(staging);
        }
    }
    scene.registered.close().await.unwrap();
}

#[tokio::test]
async fn a_device_that_is_lost_in_a_copy_says_so_from_then_on() {
    let fake = FakeHip::new(&["lose-device 1 500"]);
    let engine = fake.engine();
    let scene = Scene::new(&engine, 2, 16, 1).unwrap();
    let transfer = scene.transfer(100);
    for _ in 0..2 {
        let (staging, outcome) = scene.registered.gather(scene.request(&transfer, 0).await).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
        assert!(error.to_string().contains("719"), "{error}");
        drop(staging);
    }
    let close = scene.registered.close().await.unwrap_err();
    assert_eq!(close.kind(), ErrorKind::DeviceLost);
    assert_eq!(scene.pool.usage().bytes_lent, 0);
    drop((scene, engine));
    assert_eq!(fake.tell("leaks"), "");
}

#[tokio::test]
async fn memory_that_runs_out_is_said_and_may_come_back() {
    let fake = FakeHip::new(&["pinned-limit 1048576"]);
    let engine = fake.engine();
    let error = engine.device.allocate_staging(2 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("2097152 bytes of pinned memory"), "{error}");
    fake.tell("pinned-limit 1000000000");
    let scene = Scene::new(&engine, 1, 16, 1).unwrap();
    let transfer = scene.transfer(64);
    fake.tell("device-limit 1000000");
    let (staging, outcome) = scene.registered.gather(scene.request(&transfer, 0).await).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::OutOfMemory, "the dense buffer");
    drop(staging);
    fake.tell("device-limit 1000000000");
    let (staging, outcome) = scene.registered.gather(scene.request(&transfer, 0).await).await;
    outcome.unwrap();
    drop(staging);
    scene.registered.close().await.unwrap();
}

/// Dropped after so many polls, a gather that was started writes its buffer before the pool has it again.
#[tokio::test]
async fn a_gather_that_is_dropped_at_any_await_keeps_its_buffer() {
    for schedule in ["lazy", "threads"] {
        for polls in 0..4 {
            let fake = FakeHip::new(&[&format!("schedule {schedule}")]);
            let engine = fake.engine();
            let scene = Scene::new(&engine, 2, 16, 1).unwrap();
            let mut gather = scene.registered.gather(scene.request(&scene.transfer(100), 0x77).await);
            for _ in 0..polls {
                if gather.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(gather);
            // The only part: whoever gets it next is alone with it.
            let mut next = scene.pool.acquire().await;
            next.fill(0x11);
            scene.registered.close().await.unwrap();
            drop((scene.registered, engine));
            assert!(
                next.iter().all(|byte| *byte == 0x11),
                "{schedule}, {polls} polls: written by a dropped gather"
            );
        }
    }
}

/// Dropped after so many polls, a scatter that was started writes before `close` has returned, or never.
#[tokio::test]
async fn dropped_at_every_await_nothing_is_written_after_close() {
    for schedule in ["lazy", "threads"] {
        for polls in 0..4 {
            let fake = FakeHip::new(&[&format!("schedule {schedule}")]);
            let engine = fake.engine();
            let scene = Scene::new(&engine, 2, 16, 1).unwrap();
            let request = scene.request(&scene.transfer(100), 0x77).await;
            let mut scatter = scene.registered.scatter(request);
            for _ in 0..polls {
                let context = &mut Context::from_waker(Waker::noop());
                if let Poll::Ready((_, outcome)) = scatter.as_mut().poll(context) {
                    outcome.unwrap();
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(scatter);
            scene.registered.close().await.unwrap();
            assert_eq!(scene.pool.usage().bytes_lent, 0);
            let after = scene.image().unwrap();
            let touched = after.iter().any(|bytes| bytes.windows(8).any(|bytes| bytes == [0x77; 8]));
            assert_eq!(touched, polls > 0, "{schedule}, {polls} polls");
            drop(engine);
            fake.tell("schedule lazy");
            assert_eq!(scene.image().unwrap(), after, "written after close");
        }
    }
}

/// The engine has queued its writes, and the device is late: a save without the fence would have what was there before.
#[tokio::test]
async fn a_save_waits_for_writes_that_are_late() {
    let fake = FakeHip::new(&[]);
    let engine = fake.engine();
    let scene = Scene::new(&engine, 2, 16, 1).unwrap();
    let stream = engine.calls.stream().unwrap();
    for part in &scene.memory {
        stream.fill(part.region(), 0x5c).unwrap();
    }
    let fence = stream.fence(&engine.device).unwrap();
    let transfer = scene.transfer(100);
    let (staging, outcome) = scene.registered.gather(scene.request_after(&transfer, 0, fence).await).await;
    outcome.unwrap();
    let moved = scene.bytes(&transfer);
    assert!(staging[..moved].iter().all(|byte| *byte == 0x5c), "stale bytes were saved");
    drop(staging);
    scene.registered.close().await.unwrap();
}

/// And this is what the test above would see without a fence.
#[tokio::test]
async fn without_a_fence_late_writes_are_missed() {
    let fake = FakeHip::new(&[]);
    let engine: HipEngine = fake.engine();
    let scene = Scene::new(&engine, 2, 16, 1).unwrap();
    let stream = engine.calls.stream().unwrap();
    for part in &scene.memory {
        stream.fill(part.region(), 0x5c).unwrap();
    }
    let transfer = scene.transfer(100);
    let (staging, outcome) = scene.registered.gather(scene.request(&transfer, 0).await).await;
    outcome.unwrap();
    assert!(staging[..scene.bytes(&transfer)].iter().any(|byte| *byte != 0x5c));
    drop(staging);
    scene.registered.close().await.unwrap();
    drop(engine.allocate(1));
}
