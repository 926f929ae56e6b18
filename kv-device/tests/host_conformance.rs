//! The host device keeps the contract, under both flavours of the runtime, with short queues, and when it plays a DMA engine.

mod support;

use kv_device::conformance;
use kv_device::{Granularity, HostDeviceOptions};
use support::HostEngine;

fn engine(options: HostDeviceOptions) -> HostEngine {
    HostEngine::wrapped(options, |host| host)
}

#[tokio::test(flavor = "current_thread")]
async fn on_a_current_thread_runtime() {
    conformance::run(&engine(HostDeviceOptions::default())).await.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_multi_thread_runtime() {
    conformance::run(&engine(HostDeviceOptions::default())).await.assert();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_spawned_task() {
    let suite = async { conformance::run(&engine(HostDeviceOptions::default())).await };
    tokio::spawn(suite).await.unwrap().assert();
}

#[tokio::test]
async fn with_room_for_one_transfer() {
    let options = HostDeviceOptions { queue_depth: 1, ..HostDeviceOptions::default() };
    conformance::run(&engine(options)).await.assert();
}

#[tokio::test]
async fn as_a_device_that_moves_rows_only() {
    let options = HostDeviceOptions {
        granularity: Granularity::Rows { min_bytes: 128 },
        ..HostDeviceOptions::default()
    };
    conformance::run(&engine(options)).await.assert();
}
