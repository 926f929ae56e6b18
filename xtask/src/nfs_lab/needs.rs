//! What a machine must have for the lab, and the words for what it lacks.

use crate::processes::{Processes, Stdout};
use anyhow::Result;
use rustix::fs::{Access, access};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Programs, and Debian's packages that have them.
const PROGRAMS: [(&str, &str); 8] = [
    ("linux.uml", "user-mode-linux"),
    ("ganesha.nfsd", "nfs-ganesha"),
    ("mount.nfs", "nfs-common"),
    ("ip", "iproute2"),
    ("insmod", "kmod"),
    ("rpcbind", "rpcbind"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
];

/// Where the guests and the server look for programs, whatever the caller's `PATH`.
pub(super) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The lab cannot run here: a reason to skip it, not a fault of the project.
#[derive(Debug)]
pub(crate) struct Unavailable(Vec<String>);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the NFS lab cannot run here: {}", self.0.join("; "))
    }
}

impl std::error::Error for Unavailable {}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// `/usr/lib/uml/modules/<version>/kernel`.
    pub modules: PathBuf,
}

/// Looks for everything, so that one message names all that is missing.
///
/// # Errors
/// [`Unavailable`].
pub(super) fn check(processes: &Processes) -> Result<Found> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("it needs root (namespaces, a bridge, mounts): run it with sudo".to_owned());
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        missing.push(format!(
            "/dev/net/tun cannot be opened ({error}): load the kernel module tun, or give the container --device /dev/net/tun"
        ));
    }
    let mut packages: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    if first_below("/usr/lib", "ganesha/libfsalvfs.so").is_none() {
        packages.push("nfs-ganesha-vfs");
    }
    let modules = first_below("/usr/lib/uml/modules", "kernel");
    if modules.is_none() && !packages.contains(&"user-mode-linux") {
        packages.push("user-mode-linux");
    }
    packages.dedup();
    if !packages.is_empty() {
        let packages = packages.join(" ");
        missing.push(format!("programs are missing: apt-get install -y --no-install-recommends {packages}"));
    }
    if missing.is_empty()
        && let Some(why) = no_namespaces(processes)?
    {
        missing.push(why);
    }
    match modules {
        Some(modules) if missing.is_empty() => Ok(Found { modules }),
        _ => Err(Unavailable(missing).into()),
    }
}

/// Namespaces of processes, mounts and the network make the lab vanish whatever ends it.
fn no_namespaces(processes: &Processes) -> Result<Option<String>> {
    let mut command = unshare();
    command.args(["ip", "link", "set", "lo", "up"]).stderr(Stdio::null());
    let status = processes.run(&mut command, Stdout::Capture, Duration::from_secs(30))?.status;
    let words = "namespaces are not permitted (unshare --net --mount --pid failed): it needs CAP_SYS_ADMIN and CAP_NET_ADMIN, in a container --privileged";
    Ok((!status.success()).then(|| words.to_owned()))
}

/// `unshare`, to be followed by a command that runs as the first process of its own namespaces. It is killed when we end, however we
/// do, and its namespaces with it.
pub(super) fn unshare() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .env("PATH", PATH);
    command
}

fn on_path(program: &str) -> bool {
    PATH.split(':').any(|folder| access(Path::new(folder).join(program), Access::EXEC_OK).is_ok())
}

/// `<folder>/*/<rest>`, if there is one.
fn first_below(folder: &str, rest: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    entries.map(|entry| entry.path().join(rest)).find(|path| File::open(path).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let error =
            Unavailable(vec!["it needs root".into(), "programs are missing: apt-get install x".into()]);
        assert_eq!(
            error.to_string(),
            "the NFS lab cannot run here: it needs root; programs are missing: apt-get install x"
        );
        assert!(on_path("sh") && !on_path("no-such-program"));
        assert_eq!(first_below("/no/such/folder", "x"), None);
    }
}
