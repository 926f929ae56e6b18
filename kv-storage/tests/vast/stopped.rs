//! A path whose server is stopped (SIGSTOP) in the middle of a load or a save, and goes on later. Both paths are S3 endpoints of one
//! namespace; the first one's is a process of its own, a relay, as an address of a cluster is.

use std::net::SocketAddr;

use kv_memory::{HugePages, StagingPool};
use kv_storage::{ErrorKind, GateOptions, KvStore, Setback};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::midway::{LONG, PART, PATIENCE, load, save};
use crate::process::{Process, announce};
use crate::s3_server::backend::BUCKET;
use crate::s3_server::{Server, options};
use crate::stopping::{resume, stop};

/// A path is given up after so long; the other one moves an object of LONG bytes within it on a busy machine, too.
const DEADLINE: Duration = Duration::from_secs(5);

struct Cluster {
    _server: Server,
    relay: Process,
    store: Vast,
}

impl Cluster {
    async fn start() -> Self {
        let server = Server::start();
        let relay = Process::start("stopped::relays_to_a_server");
        let mut told = TcpStream::connect(&relay.address).await.unwrap();
        told.write_all(format!("{}\n", server.address).as_bytes()).await.unwrap();
        told.read_u8().await.unwrap();
        let mut paths = Vec::new();
        for address in [&relay.address, &server.address.to_string()] {
            let url = format!("s3://{BUCKET}/some/prefix?endpoint=http://{address}&allow_http=true");
            // Little enough that an object of LONG bytes goes in parts.
            let staging = StagingPool::new(HugePages::allocate(10 << 20).unwrap(), PART).unwrap();
            let store = kv_storage::s3::S3Store::open(&url, options().staging(staging)).await.unwrap();
            paths.push(VastPath::new("s3", Arc::new(store)));
        }
        let millis = Duration::from_millis;
        let gate = GateOptions::default().deadline(Some(DEADLINE)).failures(2);
        let gate = gate.probe_deadline(millis(500)).intervals(millis(50), millis(200));
        let store = Vast::new("lab", paths, VastOptions::default().gate(gate)).unwrap();
        Self { _server: server, relay, store }
    }

    /// A name by which reads and uploads go by the relay first.
    async fn name_by_the_relay(&self, from: u16) -> ObjectName {
        for n in from..from + 64 {
            let name = name(n);
            let before = self.store.paths()[0].moved_bytes;
            publish(&self.store, &name, b"whose").await.unwrap();
            self.store.delete(&name).await.unwrap();
            if self.store.paths()[0].moved_bytes > before {
                return name;
            }
        }
        panic!("no name prefers the relay");
    }

    async fn until(&self, down: bool) {
        let changes = async {
            while self.store.paths()[0].health.down != down {
                // A path that is not asked does not notice: heads go by the ranking.
                for n in 0..4 {
                    self.store.head(&name(n)).await.unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, changes).await.unwrap();
    }
}

//= SEMANTICS.md#vast-hang
//= SEMANTICS.md#vast-stream
//= SEMANTICS.md#vast-readmission
#[tokio::test(flavor = "multi_thread")]
async fn a_load_whose_server_stops_ends_by_the_other_path_and_the_path_is_used_again_when_it_goes_on() {
    let cluster = Cluster::start().await;
    let (store, name) = (&cluster.store, cluster.name_by_the_relay(100).await);
    save(store, &name, LONG, || {}).await.unwrap();
    let before = store.paths()[0].failed_over;
    let relay = cluster.relay.child.id();
    let handed = load(store, &name, Some(Box::new(move || stop(relay)))).await.unwrap();
    assert_eq!(store.paths()[0].failed_over, before + 1, "the load was in the middle");
    cluster.until(true).await;
    assert!(!store.health().down);
    let direct = store.paths()[1].moved_bytes;
    load(store, &name, None).await.unwrap();
    assert_eq!(store.paths()[1].moved_bytes - direct, LONG as u64, "all of it by the path that is left");

    resume(relay);
    cluster.until(false).await;
    tokio::time::timeout(PATIENCE, store.idle()).await.unwrap();
    handed.each_once(); // nothing that came late was handed over
    // What the path had in its sockets was read to the end; it moves objects again.
    let relayed = store.paths()[0].moved_bytes;
    let uses_it = async {
        while store.paths()[0].moved_bytes == relayed {
            load(store, &name, None).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, uses_it).await.unwrap();
}

/// In parts, and as one request.
//= SEMANTICS.md#vast-hang
//= SEMANTICS.md#vast-upload
#[tokio::test(flavor = "multi_thread")]
async fn a_save_whose_server_stops_is_made_again_by_the_other_path_and_comes_to_be_once() {
    for len in [LONG, 4 << 20] {
        let cluster = Cluster::start().await;
        let (store, name) = (&cluster.store, cluster.name_by_the_relay(200).await);
        let mut relay = Some(cluster.relay.child.id());
        let saving = save(store, &name, len, || relay.take().into_iter().for_each(stop));
        let error = tokio::time::timeout(PATIENCE, saving).await.expect("the deadline is kept").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(store.another_way(&name, Setback::Upload));
        let direct = store.paths()[1].moved_bytes;
        let saving = save(store, &name, len, || {});
        let saved = tokio::time::timeout(PATIENCE, saving).await.expect("the deadline is kept");
        assert_eq!(saved.unwrap(), Publication::Published);
        assert_eq!(store.paths()[1].moved_bytes - direct, len as u64);
        let published = store.head(&name).await.unwrap().unwrap();

        // What the stopped server still had of the first attempt arrives, and changes nothing.
        resume(cluster.relay.child.id());
        cluster.until(false).await;
        tokio::time::timeout(PATIENCE, store.idle()).await.unwrap();
        assert_eq!(store.head(&name).await.unwrap().unwrap(), published);
        assert!(read(store, &name, len).await.unwrap().unwrap() == bytes(&name, len));
    }
}

/// The first connection says where to, each later one is passed on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of the tests above"]
async fn relays_to_a_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    announce(listener.local_addr().unwrap());
    let (mut told, _) = listener.accept().await.unwrap();
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(told.read_u8().await.unwrap());
    }
    told.write_u8(b'!').await.unwrap();
    let server: SocketAddr = std::str::from_utf8(&line).unwrap().trim().parse().unwrap();
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut server = TcpStream::connect(server).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}
