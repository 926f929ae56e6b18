//! `cargo xtask nfs-lab`: two hosts with real NFS clients and a real NFS server on one machine, in seconds.
//!
//! What two hosts see of each other's files depends on caches that one machine does not have twice, and no mock has at all. So the
//! hosts are two Linux kernels (user-mode Linux, Debian's), the server is nfs-ganesha, and between them is a network of their own. The
//! guests share this machine's file system read-only, so a test program that cargo has built runs there as it is.
//!
//! Everything lives in namespaces of one process ([`inside`]): there is nothing to tear down.

mod control;
mod guest;
mod inside;
mod needs;
mod plan;
mod programs;
mod results;
mod server;

pub(crate) use needs::Unavailable;

use crate::processes::{Interrupted, Processes, Stdout};
use crate::workspace::{Metadata, root};
use anyhow::{Context as _, Result, bail};
use needs::Found;
use plan::{Job, Plan};
use programs::Programs;
use results::Results;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Beside the logs: what the tests said.
const OUTCOME: &str = "outcome.json";

/// What the tests want of a good mount; the lab's server is no VAST.
const RECOMMENDED: &str = "lookupcache=positive,nconnect=4";

/// Both, one after the other.
const VERSIONS: [&str; 2] = ["3", "4.2"];

/// Two hosts with NFS clients and a server, on this machine: runs the two-host suite of kv-storage, or a command.
///
/// Each host is a user-mode Linux with its own kernel, caches and address; the server is nfs-ganesha on a tmpfs. On each host the export
/// is mounted twice: on /mnt/kv with --mount-options, on /mnt/default with none. Needs root, /dev/net/tun and Debian's packages
/// user-mode-linux nfs-ganesha nfs-ganesha-vfs nfs-common iproute2 kmod rpcbind. Two labs may run at once; Ctrl-C leaves nothing.
/// Where something fails, consoles and the server's log are kept below target/nfs-lab.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask nfs-lab                                    the two-host suite on NFS 3 and 4.2
  cargo xtask nfs-lab --vers 3 --only visibility         some of it
  cargo xtask nfs-lab --full                             as in a soak: each crash point 20 times
  cargo xtask nfs-lab --vers 3 -- grep nfs /proc/mounts  a command on both hosts, output prefixed a| and b|
  cargo xtask nfs-lab --vers 4.2 --keep -- ls /mnt/kv    and then wait, to look at the server from outside")]
pub(crate) struct Options {
    /// Version of the protocol (default: both, one after the other).
    #[arg(long, value_name = "VERSION", value_parser = VERSIONS)]
    vers: Option<String>,
    /// Mount options of /mnt/kv.
    #[arg(long, value_name = "OPTIONS", default_value = RECOMMENDED)]
    mount_options: String,
    /// Only tests with this in their names.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Full counts: kill -9 at each crash point 20 times instead of once.
    #[arg(long)]
    full: bool,
    /// Leave the lab running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Show every line of both consoles.
    #[arg(long)]
    verbose: bool,
    /// For the lab's own use: a plan, run in namespaces of its own.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
    /// Run this on both hosts instead of the suite; KV_NFS_HOST says on which.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Runs the lab.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(plan) = &options.inside {
        return inside::run(plan);
    }
    let processes = Processes::new()?;
    let found = needs::check(&processes)?;
    let root = root()?;
    let target = &Metadata::read(&root)?.target_directory;
    let line = Lab { processes: &processes, root: &root, target, options }.run(&found)?;
    println!("{line}");
    Ok(())
}

/// The suite with the counts of continuous integration, or the full ones; the line of its result.
///
/// # Errors
/// [`Unavailable`] where the lab cannot run.
pub(crate) fn suite(processes: &Processes, root: &Path, target: &Path, full: bool) -> Result<String> {
    let options = Options {
        vers: None,
        mount_options: RECOMMENDED.into(),
        only: None,
        full,
        keep: false,
        verbose: false,
        inside: None,
        command: Vec::new(),
    };
    let found = needs::check(processes)?;
    Lab { processes, root, target, options: &options }.run(&found)
}

/// One call of the command.
struct Lab<'a> {
    processes: &'a Processes,
    root: &'a Path,
    target: &'a Path,
    options: &'a Options,
}

impl Lab<'_> {
    fn run(&self, found: &Found) -> Result<String> {
        let Options { vers, command, .. } = self.options;
        let start = Instant::now();
        let programs =
            if command.is_empty() { Some(Programs::build(self.processes, self.root)?) } else { None };
        let mut passed = 0;
        let mut objections = Vec::new();
        let versions = VERSIONS.iter().filter(|version| vers.as_deref().is_none_or(|only| only == **version));
        let versions: Vec<&str> = versions.copied().collect();
        for version in &versions {
            // Two labs at once have two folders.
            let logs = self.target.join("nfs-lab").join(format!("{version}-{}", std::process::id()));
            let results = self.one(version, found, programs.as_ref(), &logs)?;
            passed += results.passed.len();
            let objection = match programs {
                Some(_) => results.objection(),
                None => {
                    results.status.filter(|status| *status != 0).map(|status| format!("exit status {status}"))
                }
            };
            match objection {
                Some(why) => {
                    objections.push(format!("NFS {version}: {why} (the consoles are in {})", logs.display()))
                }
                None => fs::remove_dir_all(&logs)
                    .with_context(|| format!("{} cannot be removed", logs.display()))?,
            }
        }
        if !objections.is_empty() {
            bail!("{}", objections.join("; "));
        }
        let (versions, seconds) = (versions.join(" and "), start.elapsed().as_secs());
        let what = if programs.is_some() { format!("{passed} tests passed") } else { "done".to_owned() };
        Ok(format!("NFS {versions} between two hosts: {what} ({seconds} s)"))
    }

    /// Boots, runs and ends one lab.
    fn one(&self, version: &str, found: &Found, programs: Option<&Programs>, logs: &Path) -> Result<Results> {
        let Options { mount_options, only, full, keep, verbose, command, .. } = self.options;
        let folder = tempfile::Builder::new().prefix("kvbridge-nfs-").tempdir()?;
        fs::create_dir_all(logs).with_context(|| format!("{} cannot be created", logs.display()))?;
        let (a, b) = match programs {
            Some(programs) => programs.jobs(only.as_deref(), *full),
            None => {
                let job = || vec![Job::new(command.iter().map(String::as_str))];
                (job(), job())
            }
        };
        let limit = if *full { 60 * 60 } else { 10 * 60 };
        let plan = Plan {
            folder: folder.path().to_owned(),
            logs: logs.to_owned(),
            version: version.to_owned(),
            options: mount_options.clone(),
            modules: found.modules.clone(),
            registers: programs::registers(self.processes, self.root)?,
            a,
            b,
            both: programs.is_none(),
            limit,
            keep: *keep,
            verbose: *verbose || programs.is_none(),
        };
        let path = logs.join("plan.json");
        fs::write(&path, serde_json::to_vec_pretty(&plan)?)?;
        println!("   NFS {version}: two hosts boot");
        // Whoever keeps a lab ends it.
        let limit = Duration::from_secs(if *keep { u64::from(u32::MAX) } else { limit + 120 });
        let finished = self.processes.run(&mut inside::command(&path)?, Stdout::Inherit, limit);
        if finished.as_ref().is_err_and(|error| error.is::<Interrupted>()) && *keep {
            println!("   the lab is gone");
        }
        if !finished?.status.success() {
            bail!(
                "the lab of NFS {version} did not come up or broke: the reason is above, the logs in {}",
                logs.display()
            );
        }
        let outcome = logs.join(OUTCOME);
        let text = fs::read(&outcome).with_context(|| format!("{} cannot be read", outcome.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }
}
