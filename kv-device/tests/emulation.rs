//! The core of emulated runtimes: laziness, events between streams, faults, limits, reckoned time, the report of leaks.
#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

use std::sync::Arc;

use kv_device::emulation::{
    Direction, Failure, HandleError, Machine, Pageable, Piece, Place, Refused, Side, Work,
};

const LEN: u64 = 4096;

/// A machine with device memory, two streams and an event.
struct Scene {
    machine: Arc<Machine>,
    device: u64,
    pinned: u64,
    streams: [u64; 2],
    event: u64,
}

fn scene(schedule: &str) -> Scene {
    let machine = Machine::new();
    machine.command(&format!("schedule {schedule}")).unwrap();
    Scene {
        device: machine.memory().allocate(0, LEN).unwrap(),
        pinned: machine.memory().allocate_pinned(LEN).unwrap(),
        streams: [machine.create_stream(0), machine.create_stream(0)],
        event: machine.create_event(0),
        machine,
    }
}

impl Scene {
    fn fill(&self, stream: usize, value: u8) -> Result<(), HandleError> {
        self.machine
            .submit(self.streams[stream], Work::Fill { to: Side::Known(self.device), value, len: LEN })
    }

    fn copy_out(&self, stream: usize) -> Result<(), HandleError> {
        let piece = Piece { to: Side::Known(self.pinned), from: Side::Known(self.device), len: LEN };
        let work = Work::Copy { direction: Direction::DeviceToHost, pieces: vec![piece] };
        self.machine.submit(self.streams[stream], work)
    }

    /// First and last byte of the pinned memory.
    fn pinned(&self) -> [u8; 2] {
        let mut bytes = [0; 2];
        for (byte, offset) in bytes.iter_mut().zip([0, LEN - 1]) {
            // SAFETY: a local byte, which nothing else uses, outlives the copy.
            let to = unsafe { Pageable::new(byte) }.unwrap();
            self.machine.memory().copy(Side::Pageable(to), Side::Known(self.pinned + offset), 1).unwrap();
        }
        bytes
    }
}

#[test]
fn a_lazy_device_does_nothing_until_somebody_waits() {
    let scene = scene("lazy");
    scene.fill(0, 7).unwrap();
    scene.copy_out(0).unwrap();
    assert_eq!(scene.pinned(), [0, 0]);
    scene.machine.synchronize_stream(scene.streams[0]).unwrap();
    assert_eq!(scene.pinned(), [7, 7]);
}

#[test]
fn only_an_event_orders_two_streams() {
    let lazy = scene("lazy");
    lazy.fill(0, 7).unwrap();
    lazy.copy_out(1).unwrap();
    lazy.machine.synchronize_stream(lazy.streams[1]).unwrap();
    assert_eq!(lazy.pinned(), [0, 0], "without an event the copy is first");
    for schedule in ["lazy", "threads"] {
        let scene = scene(schedule);
        let [first, second] = scene.streams;
        scene.machine.hold(first, true).unwrap();
        scene.fill(0, 9).unwrap();
        scene.machine.record(scene.event, first).unwrap();
        scene.machine.wait(second, scene.event).unwrap();
        scene.copy_out(1).unwrap();
        assert!((0..10).all(|_| !scene.machine.query_event(scene.event).unwrap()), "{schedule}: it is held");
        assert_eq!(scene.pinned(), [0, 0]);
        scene.machine.hold(first, false).unwrap();
        scene.machine.synchronize_stream(second).unwrap();
        assert_eq!(scene.pinned(), [9, 9], "{schedule}");
        assert!(scene.machine.query_event(scene.event).unwrap());
    }
}

#[test]
fn an_event_that_is_polled_is_reached_in_the_end() {
    let scene = scene("lazy");
    scene.fill(0, 1).unwrap();
    assert!(scene.machine.query_event(scene.event).unwrap(), "never recorded is reached");
    scene.machine.record(scene.event, scene.streams[0]).unwrap();
    assert!(!scene.machine.query_event(scene.event).unwrap(), "not at once");
    assert!((0..5).any(|_| scene.machine.query_event(scene.event).unwrap()));
}

#[test]
fn a_device_is_lost_in_the_midst_of_a_copy_and_does_nothing_after() {
    let scene = scene("lazy");
    scene.machine.command("lose-device 1 500").unwrap();
    scene.fill(0, 3).unwrap();
    scene.copy_out(0).unwrap();
    let lost = Err(HandleError::Failed(Failure::DeviceLost));
    assert_eq!(scene.machine.synchronize_stream(scene.streams[0]), lost);
    assert_eq!(scene.pinned(), [3, 0], "half of it was copied");
    assert_eq!(scene.copy_out(1), lost);
    assert_eq!(scene.machine.query_event(scene.event).map(drop), lost);
}

#[test]
fn freed_memory_is_found_and_limits_hold() {
    let scene = scene("lazy");
    let memory = scene.machine.memory();
    assert_eq!(memory.free(scene.device, |place| place == Place::Pinned), Err(Refused::NotAnArea));
    memory.free(scene.device, |place| place == Place::Device(0)).unwrap();
    assert!(memory.was_freed(scene.device + 1) && !memory.was_freed(scene.pinned));
    scene.copy_out(0).unwrap();
    let illegal = Err(HandleError::Failed(Failure::IllegalAddress(scene.device)));
    assert_eq!(scene.machine.synchronize_stream(scene.streams[0]), illegal);
    scene.machine.command("device-limit 8191").unwrap();
    memory.allocate(0, 4096).unwrap();
    assert_eq!(memory.allocate(0, 4096), Err(Refused::OutOfMemory));
    assert_eq!(
        scene.machine.leaks().lines().collect::<Vec<_>>(),
        ["device-memory 1 (4096 bytes)", "pinned-memory 1 (4096 bytes)", "streams 2", "events 1"]
    );
}

#[test]
fn the_nth_call_fails_once() {
    let machine = Machine::new();
    machine.command("fail b 2 700").unwrap();
    let calls = ["a", "b", "a", "b", "b"].map(|symbol| machine.enter(symbol));
    assert_eq!(calls, [None, None, None, Some(700), None]);
    machine.command("fail * 2 -1").unwrap();
    assert_eq!(["c", "d", "e"].map(|symbol| machine.enter(symbol)), [None, Some(-1), None]);
    assert_eq!(machine.command("counts").unwrap(), "a 2\nb 3\nc 1\nd 1\ne 1\n");
    assert!(machine.command("fail b x 1").unwrap_err().contains("x is no number"));
}

#[test]
fn time_is_reckoned_by_thread_stream_and_link() {
    let scene = scene("lazy");
    scene.machine.command("model d2h=1 h2d=2 device=4096 call=10").unwrap();
    scene.machine.enter("a");
    scene.copy_out(0).unwrap(); // 10..4106
    scene.machine.enter("a");
    scene.copy_out(1).unwrap(); // the link is busy: 4106..8202
    scene.machine.enter("a");
    assert_eq!(scene.machine.command("now").unwrap(), "30");
    scene.machine.synchronize_stream(scene.streams[0]).unwrap();
    assert_eq!(scene.machine.command("now").unwrap(), "4106");
    scene.machine.synchronize_stream(scene.streams[1]).unwrap();
    assert_eq!(scene.machine.command("now").unwrap(), "8202");
    let other =
        std::thread::scope(|scope| scope.spawn(|| scene.machine.command("now").unwrap()).join().unwrap());
    assert_eq!(other, "0");
    assert_eq!(
        scene.machine.command("copies").unwrap(),
        "DeviceToHost 4096 10 4106\nDeviceToHost 4096 4106 8202"
    );
}
