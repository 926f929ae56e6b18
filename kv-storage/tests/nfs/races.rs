//! Two hosts that publish under one name at the same moment.

use kv_storage::{KvStore, Publication};

use crate::lab::{Mounted, TwoHosts, contents, new_name, read, uploaded};

const ROUNDS: u64 = 200;
const LEN: usize = 20_000;

//= SEMANTICS.md#nfs-create-only
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs two hosts: cargo xtask nfs-lab"]
async fn of_two_hosts_one_publishes_and_the_other_is_told() {
    let hosts = TwoHosts::on(Mounted::Recommended).await;
    let mut won_here = 0;
    for round in 0..ROUNDS {
        let name = new_name();
        let (ours, theirs) = (contents(2 * round, LEN), contents(2 * round + 1, LEN));
        let upload = uploaded(&hosts.here, &name, &ours).await;
        let prepared = hosts.there.prepare(&name, &theirs).await.unwrap();
        let (there, here) = tokio::join!(prepared.go(), upload.commit());
        let winner = match (here.unwrap(), there.unwrap()) {
            (Publication::Published, Publication::AlreadyExists) => &ours,
            (Publication::AlreadyExists, Publication::Published) => &theirs,
            both => panic!("round {round}: here and there {both:?}"),
        };
        won_here += u64::from(winner == &ours);
        for (host, store) in [("here", &hosts.here as &dyn KvStore), ("there", &hosts.there)] {
            let found = read(store, &name, LEN).await.unwrap();
            assert!(found.as_ref() == Some(winner), "round {round}, {host}: not the winner's object");
            let len = store.head(&name).await.unwrap().map(|meta| meta.len);
            assert_eq!(len, Some(LEN as u64), "round {round}, {host}");
        }
        assert!(hosts.here.delete(&name).await.unwrap(), "round {round}");
    }
    println!("figure: {ROUNDS} races of two hosts, {won_here} won by the first: one whole object each");
    hosts.here.idle().await;
    hosts.there.idle().await;
    let left = hosts.here.sweep(std::time::Duration::ZERO).await.unwrap();
    assert_eq!(left, 0, "temporary files of losers");
}
