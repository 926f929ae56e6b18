//! Two clusters, two engines, one KV cache: the hand-off that this workspace exists for, with a real model.
//!
//! Engine A pages its cache like vLLM on AMD, engine B like vLLM on Gaudi; each runs as one process per
//! tensor-parallel rank. A computes a prompt's KV and saves it; B, with another block size, another layout and
//! another number of ranks, loads it and answers as if it had computed it itself. Read [`roles`] first.
#![deny(unsafe_code)]
#![cfg(unix)]

pub mod cluster;
pub mod command_line;
pub mod engine;
pub mod generation;
pub mod model;
pub mod report;
pub mod roles;
pub mod transfer;
