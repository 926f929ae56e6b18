//! Streamed reads that lose their path in the middle.

use std::sync::Mutex;

use kv_storage::fault::{Injection, When};
use kv_storage::{ByteRange, ErrorKind, KvStore, Next, ObjectMeta, Operation, ReadSink};

use super::*;

const LEN: usize = 1000;
const RANGE: usize = 100;

/// Keeps what it is handed, by range.
#[derive(Default)]
pub(crate) struct Kept {
    ranges: Mutex<Vec<(usize, Vec<u8>)>>,
    metas: Mutex<Vec<ObjectMeta>>,
}

impl Kept {
    /// The whole object, if every range was handed over once, the first first.
    pub(crate) fn object(&self) -> Vec<u8> {
        let mut ranges = self.ranges.lock().unwrap().clone();
        assert_eq!(ranges[0].0, 0, "the first range comes first");
        ranges.sort_unstable();
        let indices: Vec<usize> = ranges.iter().map(|(index, _)| *index).collect();
        assert_eq!(indices, (0..LEN / RANGE).collect::<Vec<_>>(), "each range once");
        let metas = self.metas.lock().unwrap();
        assert!(metas.iter().all(|meta| *meta == metas[0]), "one object: {metas:?}");
        ranges.into_iter().flat_map(|(_, bytes)| bytes).collect()
    }

    pub(crate) fn handed(&self) -> usize {
        self.ranges.lock().unwrap().len()
    }
}

impl ReadSink for Kept {
    fn filled(&self, meta: &ObjectMeta, index: usize, buffer: HostBuf) -> Next {
        self.metas.lock().unwrap().push(meta.clone());
        self.ranges.lock().unwrap().push((index, buffer.to_vec()));
        Next::Reuse(buffer)
    }
}

pub(crate) fn ranges() -> Vec<ByteRange> {
    (0..LEN / RANGE).map(|index| ByteRange { offset: (index * RANGE) as u64, len: RANGE }).collect()
}

pub(crate) fn buffers() -> Vec<HostBuf> {
    vec![blank(RANGE), blank(RANGE)]
}

//= SEMANTICS.md#vast-stream
#[tokio::test(start_paused = true)]
async fn whatever_read_fails_the_rest_comes_by_another_path() {
    for nth in 1..=5 {
        let scene = Scene::new();
        let (object, bytes) = scene.object_by(0, LEN).await;
        scene.paths[0].inject(When::nth(Operation::Read, nth), Injection::Fail(ErrorKind::Unavailable));
        let kept = Arc::new(Kept::default());
        let sink = Arc::<Kept>::clone(&kept);
        scene.store.read_into(&object, ranges(), buffers(), sink).await.unwrap().unwrap();
        assert_eq!(kept.object(), bytes, "read {nth} failed");
        assert_eq!(scene.store.paths()[0].failed_over, 1);
        // Two at a time: what had come by the first path was not read again.
        assert_eq!(scene.paths[1].calls(Operation::Read), 5 - (nth - 1));
    }
}

//= SEMANTICS.md#vast-stream
//= SEMANTICS.md#vast-spare
#[tokio::test(start_paused = true)]
async fn a_path_that_hangs_in_the_middle_keeps_its_buffers_and_hands_nothing_over_later() {
    let scene = Scene::new();
    let (object, bytes) = scene.object_by(0, LEN).await;
    let hold = scene.paths[0].hang(When::nth(Operation::Read, 3));
    let kept = Arc::new(Kept::default());
    let sink = Arc::<Kept>::clone(&kept);
    scene.store.read_into(&object, ranges(), buffers(), sink).await.unwrap().unwrap();
    assert_eq!(kept.object(), bytes);
    assert_eq!(scene.store.health().stranded, 1);
    hold.release();
    scene.store.idle().await;
    assert_eq!(kept.handed(), LEN / RANGE);
    // A plain read likewise: the buffers that come back are others.
    let hold = scene.paths[0].hang(When::next(Operation::Read));
    assert_eq!(read(&scene.store, &object, LEN).await.unwrap().unwrap(), bytes);
    hold.release();
    scene.store.idle().await;
}

//= SEMANTICS.md#vast-replaced
#[tokio::test(start_paused = true)]
async fn an_object_that_is_replaced_while_its_path_fails_is_not_mixed_with_the_other() {
    let scene = Scene::new();
    let (object, bytes) = scene.object_by(0, LEN).await;
    scene.paths[0].inject(When::nth(Operation::Read, 2), Injection::Fail(ErrorKind::Unavailable));
    let memory = scene.memory.clone();
    // Whatever is read by the other path is read of another object.
    scene.paths[1].on_call(move |call| {
        if call.operation == Operation::Read {
            let other = vec![0; LEN];
            futures_util::FutureExt::now_or_never(async {
                memory.delete(&object).await.unwrap();
                publish(&memory, &object, &other).await.unwrap();
            })
            .unwrap();
        }
    });
    let kept = Arc::new(Kept::default());
    let sink = Arc::<Kept>::clone(&kept);
    let error = scene.store.read_into(&object, ranges(), buffers(), sink).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("was replaced while it was read"), "{error}");
    for (index, range) in kept.ranges.lock().unwrap().iter() {
        assert_eq!(range[..], bytes[index * RANGE..(index + 1) * RANGE], "what was handed over is right");
    }
}

//= SEMANTICS.md#vast-stream
#[tokio::test(start_paused = true)]
async fn a_sink_that_stops_ends_the_read_and_a_miss_calls_none() {
    struct Stops(Mutex<usize>);
    impl ReadSink for Stops {
        fn filled(&self, _: &ObjectMeta, _: usize, _: HostBuf) -> Next {
            *self.0.lock().unwrap() += 1;
            Next::Stop
        }
    }
    let scene = Scene::new();
    let (object, _) = scene.object_by(0, LEN).await;
    let sink = Arc::new(Stops(Mutex::default()));
    let read = scene.store.read_into(&object, ranges(), buffers(), Arc::<Stops>::clone(&sink));
    assert_eq!(read.await.unwrap().unwrap().len, LEN as u64);
    assert_eq!(*sink.0.lock().unwrap(), 1);
    assert_eq!(scene.paths[1].calls(Operation::Read), 0, "no other path is asked");
    let absent = name(900);
    let missing = scene.store.read_into(&absent, ranges(), buffers(), Arc::<Stops>::clone(&sink));
    assert_eq!(missing.await.unwrap(), None);
    assert_eq!(*sink.0.lock().unwrap(), 1);
}
