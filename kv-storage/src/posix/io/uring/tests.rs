//! Rings on pipes: a read of a pipe ends short whenever its writer pauses, and not at all until there is one.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kv_memory::{HostBuf, HugePages};

use super::super::{Calls, Direction, Moved, move_one};
use super::request::Piece;
use super::*;
use crate::StoreHealth;
use crate::parts::Admission;

const DEADLINE: Duration = Duration::from_secs(60);

/// Rings, or `None`, with a word on stderr, where they are forbidden.
fn rings(pool: Option<&StagingPool>) -> Option<Uring> {
    match Uring::start(1, pool) {
        Ok(rings) => Some(rings),
        Err(error) => {
            let required = std::env::var("KV_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|what| what == "io_uring"), "KV_REQUIRE={required}: {error}");
            eprintln!("SKIPPED: io_uring: {error}");
            None
        }
    }
}

fn data_file(file: impl Into<OwnedFd>) -> Arc<DataFile> {
    Arc::new(DataFile { plain: Arc::new(file.into()), direct: None })
}

fn reading(file: &Arc<DataFile>, buffer: HostBuf) -> Transfer {
    Transfer { file: Arc::clone(file), direction: Direction::Read, offset: 0, buffer }
}

fn pool() -> StagingPool {
    StagingPool::new(HugePages::allocate(4 << 20).unwrap(), 1 << 20).unwrap()
}

/// A pipe as a file that hangs.
fn hanging() -> (Arc<DataFile>, PipeWriter) {
    let (reader, writer): (PipeReader, PipeWriter) = pipe().unwrap();
    (data_file(reader), writer)
}

fn is_pending<T>(call: Pin<&mut impl Future<Output = T>>) -> bool {
    matches!(call.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}

async fn ends<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it hangs")
}

//= SEMANTICS.md#engine-same
#[test]
fn short_completions_are_resumed_until_the_buffer_is_full_or_the_file_ends() {
    let Some(rings) = rings(None) else { return };
    let (file, mut writer) = hanging();
    let bytes: Vec<u8> = (0..=250).cycle().take(300_000).collect();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || {
        for part in sent.chunks(7_001) {
            writer.write_all(part).unwrap();
        }
        // Dropped, the pipe ends: the next read is short for good.
    });
    let mut buffer = HostBuf::allocate(299_000).unwrap();
    buffer.set_len(299_000).unwrap();
    let (buffer, moved) = move_one(&rings, reading(&file, buffer));
    assert!(moved.unwrap());
    assert_eq!(buffer[..], bytes[..299_000]);
    let (buffer, moved) = move_one(&rings, reading(&file, buffer));
    assert!(!moved.unwrap(), "the file ended, and the read says that it is whole");
    assert_eq!(buffer[..1_000], bytes[299_000..]);
    writing.join().unwrap();
}

#[test]
fn errors_of_the_kernel_come_with_the_buffer() {
    let Some(rings) = rings(None) else { return };
    let (_reader, writer) = pipe().unwrap();
    let (buffer, moved) = move_one(&rings, reading(&data_file(writer), HostBuf::copy_of(b"back").unwrap()));
    assert_eq!(moved.unwrap_err(), rustix::io::Errno::BADF);
    assert_eq!(&*buffer, b"back");
}

//= SEMANTICS.md#hung-stranded
//= SEMANTICS.md#hung-bounded
//= SEMANTICS.md#hung-queued
#[tokio::test]
async fn the_ring_keeps_a_dropped_callers_buffer_until_the_kernel_lets_go() {
    let Some(rings) = rings(None) else { return };
    let (pool, admission) = (pool(), Admission::new(2));
    let calls = Calls::new("test".into(), admission.clone(), 1);
    let (file, mut writer) = hanging();
    {
        let mut call = pin!(calls.run(&rings, reading(&file, pool.acquire().await)));
        assert!(is_pending(call.as_mut()));
    }
    assert_eq!(admission.health(), StoreHealth { in_flight: 0, stranded: 1, down: false, reason: None });
    assert_eq!(pool.usage().bytes_lent, 1 << 20, "the buffer is free, and the kernel has it");

    // The stranded call does not take the only place from the next; at the bound, calls fail at once.
    let (other, mut other_writer) = hanging();
    other_writer.write_all(&[7; 100]).unwrap();
    let buffer = HostBuf::copy_of(&[0; 100]).unwrap();
    let (buffer, moved) = ends(calls.run(&rings, reading(&other, buffer))).await;
    assert!(moved.unwrap().unwrap());
    assert_eq!(*buffer, [7; 100]);
    {
        let mut call = pin!(calls.run(&rings, reading(&other, pool.acquire().await)));
        assert!(is_pending(call.as_mut()));
    }
    assert!(admission.health().down);
    let (_, refused) = calls.run(&rings, reading(&other, pool.acquire().await)).await;
    assert_eq!(refused.unwrap_err().kind(), crate::ErrorKind::Unavailable);

    // Pipes that end let go of their readers.
    let filling = std::thread::spawn(move || writer.write_all(&vec![1; 1 << 20]));
    drop(other_writer);
    ends(admission.idle()).await;
    filling.join().unwrap().unwrap();
    assert_eq!(pool.usage().bytes_lent, 0, "idle, and a buffer is not back");

    // The places are as many as before: one call at a time.
    let (file, mut writer) = hanging();
    let mut first = pin!(calls.run(&rings, reading(&file, pool.acquire().await)));
    let mut second = Box::pin(calls.run(&rings, reading(&file, pool.acquire().await)));
    assert!(is_pending(first.as_mut()));
    assert!(is_pending(second.as_mut()));
    assert_eq!(pool.usage().bytes_lent, 2 << 20);
    drop(second);
    assert_eq!(pool.usage().bytes_lent, 1 << 20, "a call that had not started kept its buffer");
    let filling = std::thread::spawn(move || writer.write_all(&vec![1; 1 << 20]));
    assert!(ends(first).await.1.unwrap().unwrap());
    filling.join().unwrap().unwrap();
    assert_eq!(admission.health(), StoreHealth::default());
}

#[test]
fn a_dropped_engine_ends_what_is_under_way() {
    let Some(rings) = rings(None) else { return };
    let (file, mut writer) = hanging();
    let (sender, receiver) = mpsc::channel::<(HostBuf, Moved)>();
    let buffer = HostBuf::copy_of(&[0; 4]).unwrap();
    rings.start(reading(&file, buffer), Box::new(move |buffer, moved| sender.send((buffer, moved)).unwrap()));
    drop(rings);
    writer.write_all(b"late").unwrap();
    let (buffer, moved) = receiver.recv_timeout(DEADLINE).unwrap();
    assert_eq!((&*buffer, moved), (&b"late"[..], Ok(true)));
}

#[test]
fn registered_memory_is_used_and_kept_as_long_as_the_rings() {
    let pool = pool();
    let Some(rings) = rings(Some(&pool)) else { return };
    if let Some(Err(error)) = rings.fixed() {
        eprintln!("SKIPPED: locked memory: {error}");
        return;
    }
    assert!(matches!(rings.fixed(), Some(Ok(bytes)) if *bytes == 4 << 20));
    let file = data_file(tempfile::tempfile().unwrap());
    let taken = || pool.try_acquire().unwrap();
    let mut buffers: Vec<HostBuf> = (0..4).map(|_| taken()).collect();
    for (value, buffer) in (1..).zip(&mut buffers) {
        buffer.fill(value);
    }
    for (part, buffer) in (0..).zip(std::mem::take(&mut buffers)) {
        let file = Arc::clone(&file);
        let transfer = Transfer { file, direction: Direction::Write, offset: part << 20, buffer };
        assert!(move_one(&rings, transfer).1.unwrap());
    }
    let mut back = taken();
    for part in 0..4 {
        let transfer = Transfer {
            file: Arc::clone(&file),
            direction: Direction::Read,
            offset: part << 20,
            buffer: back,
        };
        let (buffer, moved) = move_one(&rings, transfer);
        assert!(moved.unwrap());
        assert!(buffer.iter().all(|byte| u64::from(*byte) == part + 1), "part {part}");
        back = buffer;
    }
}

/// A request for `len` bytes at `offset`, of a file that has both descriptions; the answer goes nowhere.
fn request(offset: u64, len: usize) -> (Request, Arc<DataFile>) {
    let file = tempfile::tempfile().unwrap();
    let direct = OwnedFd::from(file.try_clone().unwrap());
    let file = Arc::new(DataFile { plain: Arc::new(file.into()), direct: Some(direct) });
    let mut buffer = HostBuf::allocate(len.max(1)).unwrap();
    buffer.set_len(len).unwrap();
    let transfer = Transfer { file: Arc::clone(&file), direction: Direction::Write, offset, buffer };
    (Request::new(transfer, Box::new(|_, _| {})), file)
}

#[test]
fn whole_pages_go_past_the_cache_and_the_rest_through_it() {
    for (offset, len, moved, direct, asked) in [
        (0, 10_000, 0, true, 8192),     // whole pages first,
        (0, 10_000, 8192, false, 1808), // then the tail;
        (4096, 8192, 0, true, 8192),
        (4096, 8192, 4096, true, 4096),
        (0, 100, 0, false, 100),         // less than a page,
        (100, 10_000, 0, false, 10_000), // an odd offset,
        (0, 10_000, 1, false, 9_999),    // and what follows an odd short completion.
    ] {
        let (mut request, file) = request(offset, len);
        if moved > 0 {
            assert_eq!(request.completed(moved), None);
        }
        let piece = request.piece();
        let expected =
            if direct { file.direct.as_ref().unwrap().as_raw_fd() } else { file.plain.as_raw_fd() };
        let start = usize::try_from(moved).unwrap();
        let expected = Piece {
            file: expected,
            direction: Direction::Write,
            offset: offset + start as u64,
            start,
            len: asked,
        };
        assert_eq!(piece, expected, "{len} bytes at {offset}, {moved} of them moved");
    }
}

#[test]
fn interruptions_are_asked_again_and_no_progress_is_an_error() {
    let (mut request, _file) = request(0, 8192);
    assert_eq!(request.completed(-libc::EINTR), None);
    assert_eq!(request.piece().len, 8192);
    assert_eq!(request.completed(-libc::ENOSPC), Some(Err(rustix::io::Errno::NOSPC)));
    assert_eq!(request.completed(0), Some(Err(rustix::io::Errno::IO)));
    assert_eq!(request.completed(8000), None);
    assert_eq!(request.completed(192), Some(Ok(true)));
}
