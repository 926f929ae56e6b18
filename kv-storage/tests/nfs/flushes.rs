//! Bytes are on the server before their name is: what the other host sees at the very moment of publication.

use std::sync::{Arc, Mutex};

use kv_storage::env::{CrashPoint, CrashPoints, Environment};
use kv_storage::posix::FsyncPolicy;
use kv_storage::{KvStore, PosixOptions};
use tokio::sync::{mpsc, oneshot};

use crate::lab::{DEADLINE, Mounted, TwoHosts, contents, new_name, publish, read};

const LEN: usize = 3 << 20;

/// Stops the publishing thread where the object has just become visible, until it is let go.
#[derive(Debug)]
struct PauseWhenVisible {
    reached: mpsc::UnboundedSender<()>,
    go_on: Mutex<Option<oneshot::Receiver<()>>>,
}

impl CrashPoints for PauseWhenVisible {
    fn reach(&self, point: CrashPoint) {
        if point.0 == "posix.object.linked"
            && let Some(go_on) = self.go_on.lock().unwrap().take()
        {
            self.reached.send(()).unwrap();
            // This is a thread of the store's own. A test that has failed drops the other end.
            let _ = go_on.blocking_recv();
        }
    }
}

//= SEMANTICS.md#nfs-flushed
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn the_other_host_reads_every_byte_at_the_moment_of_publication() {
    for policy in [FsyncPolicy::Durable, FsyncPolicy::CloseToOpen] {
        let (reached, mut reaches) = mpsc::unbounded_channel();
        let (let_go, go_on) = oneshot::channel();
        let crash_points = Arc::new(PauseWhenVisible { reached, go_on: Mutex::new(Some(go_on)) });
        let environment = Environment { crash_points, ..Environment::default() };
        let options = PosixOptions::default().fsync(policy).environment(environment);
        let hosts = TwoHosts::with(Mounted::Recommended, options).await;
        let (name, bytes) = (new_name(), contents(9, LEN));
        let look = async {
            tokio::time::timeout(DEADLINE, reaches.recv()).await.unwrap().unwrap();
            let seen = read(&hosts.there, &name, LEN).await;
            let_go.send(()).unwrap();
            seen
        };
        let ((), seen) = tokio::join!(publish(&hosts.here, &name, &bytes), look);
        assert!(seen.unwrap().as_ref() == Some(&bytes), "{policy:?}: not all bytes were on the server");
        assert!(hosts.here.flushes() > 0, "{policy:?}");
    }
}

//= SEMANTICS.md#nfs-unflushed
#[tokio::test]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn the_policy_none_asks_for_no_flush_on_nfs_either() {
    let hosts = TwoHosts::with(Mounted::Recommended, PosixOptions::default().fsync(FsyncPolicy::None)).await;
    assert!(hosts.here.is_network());
    publish(&hosts.here, &new_name(), &contents(1, LEN)).await;
    hosts.here.idle().await;
    assert_eq!(hosts.here.flushes(), 0);
}
