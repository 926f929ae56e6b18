//! A tensor-parallel group as operating-system processes on one host.
//!
//! The launcher starts one process per rank. Each rank's standard input is a Unix socket to the launcher, and that
//! one socket is everything: it brings the job, it carries the collective's messages (the launcher is the hub of the
//! star), and its end of file tells either side that the other is gone, whatever the reason.

pub mod frames;
pub mod hub;
pub mod job;
pub mod launcher;
pub mod link;
pub mod rank_main;
pub mod rank_process;
pub mod stop;
