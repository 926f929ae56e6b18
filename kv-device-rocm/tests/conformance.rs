//! The device keeps the contract through `dlopen`, on every kind of runtime that the emulated one can be.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod support;

use kv_device::conformance;
use support::FakeHip;

/// Runs the suite, and finds nothing left behind.
async fn conforms(commands: &[&str]) {
    let fake = FakeHip::new(&[&["set strict 1"], commands].concat());
    let engine = fake.engine();
    conformance::run(&engine).await.assert();
    drop(engine);
    assert_eq!(fake.tell("leaks"), "");
}

#[tokio::test]
async fn lazily() {
    conforms(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_threads() {
    conforms(&["schedule threads"]).await;
}

#[tokio::test]
async fn before_batches() {
    let fake = FakeHip::new(&["set strict 1", "set hip-version 60300000"]);
    let engine = fake.engine();
    conformance::run(&engine).await.assert();
    assert_eq!(engine.device.identity().arch, "gfx942");
}

#[tokio::test]
async fn as_hip_5() {
    conforms(&["set hip-version 50200000"]).await;
}

#[tokio::test]
async fn as_hip_7_13_with_attributes() {
    conforms(&["set hip-version 71300000"]).await;
}

#[tokio::test]
async fn on_a_processor_that_is_compiled_for_at_run_time() {
    conforms(&["set arch gfx90a"]).await;
}

#[tokio::test]
async fn on_the_other_processor_with_a_committed_code_object() {
    conforms(&["set arch gfx950"]).await;
    for (arch, compiled) in [("gfx942", false), ("gfx950", false), ("gfx90a", true)] {
        let fake = FakeHip::new(&[&format!("set arch {arch}")]);
        assert_eq!(fake.engine().device.identity().arch, arch);
        assert_eq!(fake.tell("counts").contains("hiprtc"), compiled, "{arch}");
    }
}

#[tokio::test]
async fn with_room_for_one_transfer() {
    let fake = FakeHip::new(&["set strict 1"]);
    let engine = fake.engine_with(fake.options().queue_depth(1)).unwrap();
    conformance::run(&engine).await.assert();
}
