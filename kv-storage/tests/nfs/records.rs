//! Hand-off records between hosts: made before the other host learns the id, replaced by rename, read by open.

use kv_format::RecordName;
use kv_storage::KvStore;

use crate::lab::{Mounted, TwoHosts, random};

/// One request: its record is there at the reader's first look, and so is what replaces it.
async fn hand_off(hosts: &TwoHosts, id: &str) {
    let name = RecordName::request(id, 0);
    let body = |record: Option<kv_storage::Record>| record.map(|record| record.body);
    let version = hosts.here.create_record(&name, b"saving").await.unwrap().expect("the id is new");
    // The id goes to the consumer, which looks for the first time.
    let first = hosts.there.read_record(&name).await.unwrap();
    assert_eq!(
        body(first).as_deref(),
        Some(&b"saving"[..]),
        "{id}: the record is not there at the first look"
    );
    for state in ["saved 1 of 2", "complete"] {
        let current = hosts.here.read_record(&name).await.unwrap().expect("our own record");
        assert!(state != "saved 1 of 2" || current.version == version);
        hosts
            .here
            .replace_record(&name, &current.version, state.as_bytes())
            .await
            .unwrap()
            .expect("we own it");
        let seen = hosts.there.read_record(&name).await.unwrap();
        assert_eq!(
            body(seen).as_deref(),
            Some(state.as_bytes()),
            "{id}: an old record after its replacement"
        );
    }
}

//= SEMANTICS.md#nfs-record-rule
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn records_made_before_the_id_is_told_are_seen_on_every_mount() {
    // The default mount is where the rule is needed.
    for (mounted, rounds) in [(Mounted::Recommended, 100), (Mounted::Default, 500)] {
        let hosts = TwoHosts::on(mounted).await;
        let run = random();
        for round in 0..rounds {
            hand_off(&hosts, &format!("{run}-{round}")).await;
        }
        println!(
            "figure: {mounted:?} mount: {rounds} of {rounds} records and their replacements seen at the first look"
        );
    }
}

// What the rule is for: even a consumer that breaks it is served here, because a miss is asked again.
//= SEMANTICS.md#nfs-visible-by-asking
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn a_record_that_was_looked_for_too_early_is_seen_when_it_is_there() {
    for mounted in [Mounted::Recommended, Mounted::Default] {
        let hosts = TwoHosts::on(mounted).await;
        for round in 0..20 {
            let id = format!("early-{round}");
            let name = RecordName::request(&id, 1);
            assert_eq!(hosts.there.read_record(&name).await.unwrap(), None);
            hosts.here.create_record(&name, b"made").await.unwrap().expect("the id is new");
            let seen = hosts.there.read_record(&name).await.unwrap();
            assert!(seen.is_some(), "{mounted:?}, round {round}");
        }
    }
}

//= SEMANTICS.md#nfs-record-held
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn a_replacement_is_seen_while_the_owners_host_has_the_old_record_open() {
    for mounted in [Mounted::Recommended, Mounted::Default] {
        let hosts = TwoHosts::on(mounted).await;
        let name = RecordName::request("held", 2);
        let mut version = hosts.here.create_record(&name, b"0").await.unwrap().expect("the id is new");
        let mut held = Vec::new();
        for round in 1..10 {
            let seen = hosts.there.read_record(&name).await.unwrap().expect("it is there");
            assert_eq!(seen.version, version, "{mounted:?}, round {round}");
            // As another process of this host would that reads it at this moment.
            held.push(std::fs::File::open(hosts.root.join(name.to_string())).unwrap());
            let body = round.to_string();
            let replaced = hosts.here.replace_record(&name, &version, body.as_bytes()).await.unwrap();
            version = replaced.expect("we own it");
            let seen = hosts.there.read_record(&name).await.unwrap().map(|record| record.body);
            assert_eq!(seen.as_deref(), Some(body.as_bytes()), "{mounted:?}, round {round}");
        }
    }
}

// Both hosts still sweep the directories: without a question about the open file, one record in twenty is seen late by Linux 6.1 (NFS 3).
//= SEMANTICS.md#nfs-record-rule
//= SEMANTICS.md#nfs-sweep
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn replacements_are_seen_while_both_hosts_list_the_directories() {
    for store in 0..20 {
        // Each opens the store, tries files in it, and sweeps, while the other does.
        let hosts = TwoHosts::on(Mounted::Recommended).await;
        for request in 0..4 {
            hand_off(&hosts, &format!("{store}-{request}")).await;
        }
    }
}
