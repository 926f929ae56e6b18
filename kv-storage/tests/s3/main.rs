//! The S3 store on a server in this process: the contract, every fault of the matrix, and what opening says.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions that tests share are test code too"
)]

mod access;
mod bodies;
#[cfg(all(feature = "gcs", feature = "azure"))]
mod clouds;
mod conditions;
mod contract;
mod generations;
mod lost_answers;
mod parts;
#[path = "../remote_store/process.rs"]
mod process;
mod processes;
#[path = "../remote_store/mod.rs"]
mod remote_store;
#[path = "../s3_server/mod.rs"]
mod s3_server;
mod scene;
mod staging;
mod tls;
