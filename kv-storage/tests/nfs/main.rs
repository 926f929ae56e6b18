//! What the posix store promises between two hosts on NFS. `cargo xtask nfs-lab` runs these tests on host a, with the same program as
//! the agent on host b: each works on `/mnt/kv`, mounted as we recommend, or on `/mnt/default`, mounted with no options.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions that tests share are test code too"
)]

mod agent;
mod conformance;
mod deletions;
mod flushes;
mod hung_server;
mod lab;
mod misses;
mod races;
mod records;
#[path = "../remote_store/mod.rs"]
mod remote_store;
mod visibility;
