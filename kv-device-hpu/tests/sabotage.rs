//! Each thing that the backend does about a rule of the vendor's, left out: the conformance suite, or what a test looks at after it (what
//! was not given back, what the engine can still do), must notice. The README names them beside the rules.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "registers a wrong address, which a sound backend refuses")]

mod support;

use std::sync::Arc;

use kv_device::conformance::{self, Engine};
use kv_device::{Device, DeviceRegion};
use kv_device_hpu::synapse::Selector;
use kv_device_hpu::{Break, HpuDevice, HpuOptions, Sabotage};
use support::engine::SynapseEngine;
use support::{Fake, settled_leaks};

/// What is wrong with a backend that leaves something out, or with a whole one: nothing.
async fn wrong(sabotage: Option<Break>) -> Vec<String> {
    let fake = Fake::new();
    let mut options = fake.options();
    options.sabotage = sabotage.map(Sabotage::of).unwrap_or_default();
    let mut found = no_device(&options).await;
    let engine = fake.own().unwrap();
    let canary = engine.allocate(4096).unwrap();
    canary.write(0, &[7; 4096]).unwrap();
    match HpuDevice::attach(&options) {
        Ok(device) => {
            found.extend(suite(&fake, &engine, &device).await);
            drop(device);
        }
        Err(error) => found.push(error.to_string()),
    }
    let mut bytes = [0; 4096];
    match canary.read(0, &mut bytes) {
        Ok(()) if bytes == [7; 4096] => {}
        other => found.push(format!("the engine's own memory: {other:?}")),
    }
    drop((canary, engine));
    found.extend(owned(&fake, &options));
    if found.is_empty() {
        // A failed suite keeps its memory on purpose.
        found.extend(settled_leaks(&fake).lines().map(|leak| format!("not given back: {leak}")));
    }
    found
}

/// The suite, beside an engine, and what it does not look at.
async fn suite(fake: &Fake, engine: &Arc<HpuDevice>, device: &Arc<HpuDevice>) -> Vec<String> {
    let engine = SynapseEngine { fake: fake.clone(), device: Arc::clone(device), own: Arc::clone(engine) };
    let report = conformance::run(&engine).await;
    let mut found: Vec<String> =
        report.failures().map(|failed| format!("{}: {:?}", failed.check, failed.failure)).collect();
    let handle = DeviceRegion { address: 1 << 63 | 0x7000, len: 4096 };
    // SAFETY: nothing is moved.
    if unsafe { device.register(vec![handle]) }.is_ok() {
        found.push("a handle of PyTorch's was taken for an address".into());
    }
    fake.tell("fail synEventCreate 1 26");
    if engine.fence().is_ok() {
        found.push("a call that failed was taken for one that succeeded".into());
    }
    fake.tell("no-faults");
    found
}

/// A tool on a host without a device.
async fn no_device(options: &HpuOptions) -> Vec<String> {
    let fake = Fake::with(&["set modules 0"]);
    let mut options = options.clone();
    options.library = Some(fake.path.clone());
    match HpuDevice::own(Selector::Any, &options) {
        Ok(_) => vec!["opened a device that is not there".into()],
        Err(_) if fake.tell("get hung") == "yes" => vec!["hung where no device is".into()],
        Err(_) => Vec::new(),
    }
}

/// A tool that opens a device twice.
fn owned(fake: &Fake, options: &HpuOptions) -> Vec<String> {
    let again = HpuDevice::own(Selector::Any, options).and_then(|device| {
        drop(device);
        HpuDevice::own(Selector::Any, options)
    });
    let leaks = again.map(|device| {
        drop(device);
        settled_leaks(fake)
    });
    match leaks {
        Ok(leaks) if leaks.is_empty() => Vec::new(),
        Ok(leaks) => vec![format!("a tool has not given back: {leaks}")],
        Err(error) => vec![format!("a tool's second device: {error}")],
    }
}

#[tokio::test]
async fn a_whole_backend_has_nothing_wrong() {
    assert_eq!(wrong(None).await, Vec::<String>::new());
}

/// One test for each, so that each runs alone.
macro_rules! noticed {
    ($($name:ident: $what:ident;)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                let found = wrong(Some(Break::$what)).await;
                assert!(!found.is_empty(), "nothing notices {:?}", Break::$what);
                println!("{:?}: {found:#?}", Break::$what);
            }
        )+
    };
}

noticed! {
    acquiring_beside_an_engine: AcquireInAttach;
    releasing_the_engines_device: ReleaseInAttach;
    keeping_its_own_device: KeepDevice;
    ending_the_runtime_without_a_device: DestroyAfterFailedProbe;
    staging_that_is_not_mapped: SkipHostMap;
    mapping_a_base_twice: MapLarger;
    unmapping_by_another_address: UnmapInside;
    copying_outside_of_the_mapping: CopyOutsideMapping;
    sizes_and_destinations_swapped: SwapSizeAndDestination;
    lists_left_out: NullList;
    fences_dropped: DropFence;
    fences_not_recorded: SkipRecord;
    busy_taken_for_reached: BusyIsReached;
    completion_not_awaited: SkipCompletion;
    codes_ignored: IgnoreStatus;
    addresses_trusted: TrustAddresses;
}
