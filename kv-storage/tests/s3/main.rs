//! The S3 store on a server in this process: the contract, every fault of the matrix, and what opening says.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the functions that tests share are test code too")]

mod access;
mod bodies;
mod conditions;
mod contract;
mod lost_answers;
#[path = "../s3_server/mod.rs"]
mod s3_server;
mod scene;
mod staging;
