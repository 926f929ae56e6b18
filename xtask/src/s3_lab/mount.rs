//! The tree of a SeaweedFS server as a directory, by `weed mount`: its place, when it is there, and that it goes.

use crate::python::Unavailable;
use anyhow::{Context as _, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A server and a mount are given so long to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the tree is mounted. Dropped, it is unmounted.
pub(super) struct Mount {
    point: PathBuf,
    /// Another way to it.
    link: PathBuf,
}

impl Mount {
    /// Makes the directories, and waits until the server listens, since a mount does not.
    ///
    /// # Errors
    /// [`Unavailable`] where nothing can be mounted.
    pub(super) fn prepare(folder: &Path, filer: u16) -> Result<Self> {
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
            let why = format!("/dev/fuse cannot be opened ({error}): SeaweedFS's mount needs it, and root");
            return Err(Unavailable::new(why).into());
        }
        let (point, link) = (folder.join("tree"), folder.join("link"));
        std::fs::create_dir(&point)?;
        symlink(&point, &link)?;
        until("SeaweedFS's server to listen", || TcpStream::connect(("127.0.0.1", filer)).is_ok())?;
        Ok(Self { point, link })
    }

    pub(super) fn point(&self) -> &Path {
        &self.point
    }

    /// Waits until it is mounted, and makes the bucket.
    pub(super) fn ready(&self, bucket: &str) -> Result<()> {
        let shown = self.point.display().to_string();
        let mounted = || {
            std::fs::read_to_string("/proc/mounts")
                .is_ok_and(|mounts| mounts.lines().any(|line| line.split(' ').nth(1) == Some(shown.as_str())))
        };
        until("SeaweedFS to mount its tree", mounted)?;
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(self.point.join(bucket))
            .context("the bucket cannot be made")
    }

    /// The cluster file: two directories, or `one`, and the gateway, which replaces records in one step where a mount does not.
    pub(super) fn clusters(&self, bucket: &str, gateway: &str) -> String {
        let directory = |way: &PathBuf| format!("file://{}/{bucket}", way.display());
        let cluster = |urls: &[String]| {
            let paths: Vec<_> = urls.iter().map(|url| serde_json::json!({ "url": url })).collect();
            serde_json::json!({ "records": "s3", "paths": paths })
        };
        let (point, link, gateway) = (directory(&self.point), directory(&self.link), gateway.to_owned());
        let one = cluster(&[point.clone(), gateway.clone()]);
        serde_json::json!({ "weed": cluster(&[point, link, gateway]), "one": one }).to_string()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Also while its server does not answer.
        let _ = unmount(&self.point, UnmountFlags::DETACH);
    }
}

/// Waits for something that comes by itself.
#[expect(clippy::disallowed_methods, reason = "somebody else's server tells nobody when it is up")]
fn until(what: &str, is: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !is() {
        if start.elapsed() > PATIENCE {
            bail!("gave up waiting for {what} after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
