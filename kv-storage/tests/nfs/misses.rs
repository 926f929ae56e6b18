//! What a lookup costs, in requests of this host's kernel to the server.

use kv_storage::{KvStore, PosixStore};

use crate::lab::{Mounted, TwoHosts, asked, contents, new_name, publish, requests};

const LOOKS: u64 = 200;

/// Requests for `LOOKS` lookups of names that nobody has, in a namespace and a directory that exist.
async fn cost_of_misses(hosts: &TwoHosts) -> Vec<(String, u64)> {
    let neighbour = new_name();
    publish(&hosts.here, &neighbour, &contents(1, 10)).await;
    let mut name = neighbour;
    let miss = async |store: &PosixStore, name| assert_eq!(store.head(&name).await.unwrap(), None);
    name.slice += 1;
    hosts.here.idle().await; // the sweep at open asks too
    miss(&hosts.here, name).await; // the directories on the way are known from here on
    let before = requests(&hosts.root);
    for _ in 0..LOOKS {
        name.slice += 1;
        miss(&hosts.here, name).await;
    }
    asked(&before, &requests(&hosts.root))
}

/// Directories on the way to an object, which the kernel may ask about again when what it knows of them is old.
const REFRESHES: u64 = 8;

//= SEMANTICS.md#nfs-one-round-trip
#[tokio::test]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn a_miss_costs_one_round_trip_on_the_recommended_mount() {
    let hosts = TwoHosts::on(Mounted::Recommended).await;
    let asked = cost_of_misses(&hosts).await;
    println!("figure: recommended mount: {LOOKS} misses cost {asked:?}");
    let all: u64 = asked.iter().map(|(_, count)| count).sum();
    assert!((LOOKS..=LOOKS + REFRESHES).contains(&all), "{asked:?}");
}

//= SEMANTICS.md#nfs-one-round-trip
#[tokio::test]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn a_miss_costs_a_second_round_trip_on_a_default_mount() {
    let hosts = TwoHosts::on(Mounted::Default).await;
    let asked = cost_of_misses(&hosts).await;
    println!("figure: default mount: {LOOKS} misses cost {asked:?}");
    let all: u64 = asked.iter().map(|(_, count)| count).sum();
    assert!((LOOKS..=2 * LOOKS + REFRESHES).contains(&all), "{asked:?}");
}
