//! The device keeps the contract, through dlopen: its own and an engine's, under lazy and under eager streams, with short queues.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use kv_device::conformance;
use kv_device_hpu::synapse::Mode;
use kv_device_hpu::{HpuDevice, HpuOptions};
use support::engine::SynapseEngine;
use support::{Fake, settled_leaks};

/// Runs the suite on a device, and looks what is left when all is dropped.
async fn passes(fake: &Fake, engine: SynapseEngine) {
    conformance::run(&engine).await.assert();
    drop(engine);
    assert_eq!(settled_leaks(fake), "");
}

async fn owned(fake: &Fake, change: impl FnOnce(&mut HpuOptions)) {
    let mut options = fake.options();
    change(&mut options);
    let device = HpuDevice::own(kv_device_hpu::synapse::Selector::Any, &options).unwrap();
    assert_eq!(device.session().mode(), Mode::Owned);
    passes(fake, SynapseEngine::new(fake, device)).await;
}

#[tokio::test(flavor = "current_thread")]
async fn on_a_current_thread_runtime_with_the_laziest_streams() {
    owned(&Fake::new(), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_multi_thread_runtime_with_eager_streams() {
    owned(&Fake::with(&["schedule threads"]), |_| {}).await;
}

#[tokio::test]
async fn with_room_for_one_transfer() {
    owned(&Fake::new(), |options| options.queue_depth = 1).await;
}

#[tokio::test]
async fn on_a_gaudi2() {
    owned(&Fake::with(&["set type gaudi2"]), |_| {}).await;
}

#[tokio::test]
async fn beside_an_engine_that_has_acquired_the_device() {
    let fake = Fake::new();
    let own = fake.own().unwrap();
    let device = HpuDevice::attach(&fake.options()).unwrap();
    assert_eq!(device.session().mode(), Mode::Attached);
    passes(&fake, SynapseEngine { fake: fake.clone(), device, own }).await;
    assert_eq!((fake.count("synDeviceRelease"), fake.count("synDestroy")), (1, 0), "the engine's");
}

#[tokio::test]
async fn an_attached_device_leaves_the_engine_its_own() {
    let fake = Fake::new();
    let engine = fake.own().unwrap();
    let memory = engine.allocate(4096).unwrap();
    memory.write(0, &[7; 4096]).unwrap();
    let device = HpuDevice::attach(&fake.options()).unwrap();
    assert_eq!(device.identity(), engine.identity());
    drop(device);
    let mut bytes = [0; 4096];
    memory.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096]);
    assert_eq!((fake.count("synDeviceRelease"), fake.count("synDestroy")), (0, 0));
    drop((memory, Arc::clone(&engine), engine));
    assert_eq!(settled_leaks(&fake), "");
}
