//! `cargo xtask`: the project's own commands, in Rust so that a fresh machine needs nothing but a toolchain.
//!
//! `demo` shows the library at work, `test` checks the whole workspace, `tidy` keeps the rules that no compiler keeps, `doc` builds
//! the documentation as docs.rs does, `bench` measures save and load beside what the machine can do, `fuzz` and `mutants` look for
//! what the tests have missed, `golden` compares the golden files with what their generators make, `kernels` builds the code objects of
//! the ROCm kernels, `nfs-lab` runs two hosts with an NFS server between them, `soak` kills processes all day,
//! `s3-lab` starts an S3 server of somebody else and runs the S3 suite on it.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: its output is the terminal's"
)]

mod bench;
mod demo;
mod doc;
mod fuzz;
mod golden;
mod kernels;
mod model;
mod mutants;
mod nfs_lab;
mod processes;
mod programs;
mod python;
mod s3_lab;
mod soak;
mod steps;
mod table;
mod tidy;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The project's own commands.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "New here? Run `cargo xtask demo`, then `cargo xtask test`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Options),
    Demo(demo::Options),
    Test(steps::Options),
    Tidy(tidy::Options),
    Doc(doc::Options),
    Fuzz(fuzz::Options),
    Mutants(mutants::Options),
    Soak(soak::Options),
    Golden(golden::Options),
    NfsLab(nfs_lab::Options),
    Kernels(kernels::Options),
    S3Lab(s3_lab::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(options) => bench::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => steps::run(&options),
        Command::Tidy(options) => tidy::command(&options),
        Command::Doc(options) => doc::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Mutants(options) => mutants::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Golden(options) => golden::run(&options),
        Command::NfsLab(options) => nfs_lab::run(&options),
        Command::Kernels(options) => kernels::run(&options),
        Command::S3Lab(options) => s3_lab::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            error
                .downcast_ref::<processes::Interrupted>()
                .map_or(ExitCode::FAILURE, |signal| signal.exit_code())
        }
    }
}
