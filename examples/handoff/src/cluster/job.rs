//! What a rank is told to do: the launcher's first message on its socket.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::ModelChoice;
use crate::transfer::{DeviceKind, Storage};

/// What the group does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Compute the prompt's KV on engine A and save it.
    Prefill,
    /// Load the prompt's KV into engine B and answer.
    Decode {
        /// Most answer tokens.
        max_tokens: usize,
        /// What to do when less than the whole prompt could be loaded.
        policy: Policy,
    },
}

/// What a decode does when the store gives less than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Fail: the hand-off is broken.
    Fail,
    /// Compute the missing tokens and answer anyway.
    Recompute,
}

/// One rank's work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// What the group does.
    pub role: Role,
    /// The model to open.
    pub model: ModelChoice,
    /// Digest of its weights, computed once by the launcher.
    pub weights_digest: [u8; 32],
    /// This rank.
    pub rank: usize,
    /// Number of ranks.
    pub tp: usize,
    /// Where the rank keeps its KV.
    pub device: DeviceKind,
    /// Threads for this rank's arithmetic.
    pub threads: usize,
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Where the KV goes to or comes from.
    pub store: Storage,
    /// Names the hand-off, the same on all ranks of both clusters.
    pub request_id: String,
    /// Longest wait for the store, and for the other cluster through it.
    pub deadline: Duration,
    /// Where the leader writes its report.
    pub report: Option<PathBuf>,
    /// Directory into which each rank writes the prompt's KV.
    pub export: Option<PathBuf>,
}
