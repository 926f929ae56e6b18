//! What one host has published, the other finds at its first look.

use kv_storage::KvStore;

use crate::lab::{Mounted, TwoHosts, contents, new_name, publish, read};

const ROUNDS: u64 = 500;
const LEN: usize = 5000;

/// Rounds in which the other host looks for the object before it is there, and finds it whole at its first look after the publication
/// was acknowledged.
async fn seen_at_first_look(hosts: &TwoHosts) -> u64 {
    let mut seen = 0;
    for round in 0..ROUNDS {
        let (name, bytes) = (new_name(), contents(round, LEN));
        assert_eq!(hosts.there.head(&name).await.unwrap(), None, "round {round}");
        publish(&hosts.here, &name, &bytes).await;
        let found = read(&hosts.there, &name, LEN).await.unwrap();
        assert!(found.as_ref().is_none_or(|found| *found == bytes), "round {round}: other bytes");
        seen += u64::from(found.is_some());
    }
    seen
}

//= SEMANTICS.md#nfs-visible
//= SEMANTICS.md#nfs-warnings
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn objects_are_found_by_the_first_open_on_the_recommended_mount() {
    let hosts = TwoHosts::on(Mounted::Recommended).await;
    assert_eq!(hosts.there.warnings().await.unwrap(), Vec::<String>::new());
    let seen = seen_at_first_look(&hosts).await;
    println!(
        "figure: recommended mount: {seen} of {ROUNDS} objects found by the first open after the acknowledgement"
    );
    assert_eq!(seen, ROUNDS);
}

//= SEMANTICS.md#nfs-visible-by-asking
//= SEMANTICS.md#nfs-warnings
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn objects_are_found_by_the_first_open_on_a_default_mount_too() {
    let hosts = TwoHosts::on(Mounted::Default).await;
    let warnings = hosts.there.warnings().await.unwrap();
    assert!(warnings.iter().any(|warning| warning.contains("add `lookupcache=positive`")), "{warnings:?}");
    let seen = seen_at_first_look(&hosts).await;
    println!(
        "figure: default mount: {seen} of {ROUNDS} objects found by the first open after the acknowledgement"
    );
    assert_eq!(seen, ROUNDS);
}
