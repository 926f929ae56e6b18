//! NIXL as what moves the bytes: the contract through the real library and an emulated one, what is said where there is none, and what an
//! old, lying, failing or hanging one can do.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "the functions that tests share are test code too"
)]

mod contract;
mod exit;
mod faults;
mod hung;
mod libraries;
mod missing;
mod objects;
#[expect(dead_code, reason = "the S3 store's own tests use more of it")]
#[path = "../s3_server/mod.rs"]
mod s3_server;
#[path = "../s3/scene.rs"]
mod scene;
