//! The stores that are measured, and why one is not.

use super::huge_tmpfs::HugeTmpfs;
use anyhow::{Context as _, Result, bail};
use rustix::fs::statvfs;
use std::path::Path;
use tempfile::TempDir;

/// Plain tmpfs, where there is one.
const SHARED_MEMORY: &str = "/dev/shm";
/// Room for the largest moment of a run, in whole huge pages: 32 objects of the plain loops, of each of four shapes, and of one save.
pub(super) const ROOM: u64 = 6 * 32 * (12 << 20);

/// One store to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub label: String,
    pub url: String,
}

/// The stores of a run. Dropping it removes the folders and unmounts what was mounted.
pub(super) struct Places {
    places: Vec<Place>,
    left_out: Vec<String>,
    /// Dropped in this order: folders before what they may lie on.
    _folders: Vec<TempDir>,
    _huge: Option<HugeTmpfs>,
}

/// Accepts stores that the benchmark has plain loops for.
pub(super) fn parse(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        Some(("memory", "")) => Ok(text.into()),
        Some(("file", path)) if path.starts_with('/') => Ok(text.into()),
        _ => Err("expected memory:// or file:///absolute/path: the benchmark has plain loops to compare with for these".into()),
    }
}

/// Fails where the folder of a store that [`parse`] has accepted is not there.
pub(super) fn exists(store: &str) -> Result<()> {
    match store.strip_prefix("file://") {
        Some(path) if !Path::new(path).is_dir() => {
            bail!(
                "{path} is no folder: make it first; the bench makes and removes a folder of its own below it"
            )
        }
        _ => Ok(()),
    }
}

impl Places {
    /// The store that was asked for, or all that this machine has; `disk` is a folder on the disk.
    pub(super) fn find(store: Option<&str>, huge: bool, disk: &Path) -> Result<Self> {
        let mut found = Self { places: Vec::new(), left_out: Vec::new(), _folders: Vec::new(), _huge: None };
        match store {
            Some("memory://") => found.memory(),
            Some(url) => found.folder(url.to_owned(), Path::new(url.trim_start_matches("file://")))?,
            None => {
                found.memory();
                found.folder(format!("disk, {}", disk.display()), disk)?;
                match room(Path::new(SHARED_MEMORY)) {
                    Ok(()) => {
                        found.folder(format!("plain tmpfs, {SHARED_MEMORY}"), Path::new(SHARED_MEMORY))?
                    }
                    Err(reason) => found.left_out.push(format!("plain tmpfs: {reason}")),
                }
            }
        }
        if huge {
            match HugeTmpfs::mount() {
                Ok(mount) => {
                    let label = format!("huge-page tmpfs, {}", mount.path().display());
                    let url = format!("file://{}", mount.path().display());
                    found.places.push(Place { label, url });
                    found._huge = Some(mount);
                }
                Err(error) => found.left_out.push(format!("huge-page tmpfs: {error:#}")),
            }
        }
        Ok(found)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Place> {
        self.places.iter()
    }

    /// A sentence for each store that could not be measured.
    pub(super) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    fn memory(&mut self) {
        self.places.push(Place { label: "memory".into(), url: "memory://".into() });
    }

    /// A folder of our own in `parent`: gone at the end, even if the benchmark is killed.
    fn folder(&mut self, label: String, parent: &Path) -> Result<()> {
        let folder = tempfile::Builder::new()
            .prefix("kvbridge-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("no folder can be made in {}", parent.display()))?;
        let path = folder.path().to_str().with_context(|| format!("{} is not UTF-8", parent.display()))?;
        self.places.push(Place { label, url: format!("file://{path}") });
        self._folders.push(folder);
        Ok(())
    }
}

/// Whether a folder is there and has room.
fn room(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    let free = statvfs(folder).map_err(|errno| format!("{shown}: {errno}"))?;
    let bytes = free.f_bavail.saturating_mul(free.f_frsize);
    if bytes < ROOM {
        return Err(format!("{shown} has {} MiB free, {} are needed", bytes >> 20, ROOM >> 20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_whose_folder_is_not_there_is_refused_and_named() {
        let disk = tempfile::tempdir().unwrap();
        let url = format!("file://{}", disk.path().display());
        exists("memory://").unwrap();
        exists(&url).unwrap();
        let error = exists(&format!("{url}/none")).unwrap_err().to_string();
        assert!(error.contains(&format!("{}/none is no folder", disk.path().display())), "{error}");
    }

    #[test]
    fn without_a_store_memory_and_the_disk_are_measured_and_folders_are_removed() {
        let disk = tempfile::tempdir().unwrap();
        let places = Places::find(None, false, disk.path()).unwrap();
        let urls: Vec<_> = places.iter().map(|place| place.url.clone()).collect();
        assert_eq!(urls[0], "memory://");
        assert!(urls[1].starts_with(&format!("file://{}/", disk.path().display())), "{urls:?}");
        assert_eq!(disk.path().read_dir().unwrap().count(), 1);
        drop(places);
        assert_eq!(disk.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_store_that_was_asked_for_is_the_only_one() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let places = Places::find(Some(&url), false, Path::new("/nowhere")).unwrap();
        assert_eq!(places.iter().count(), 1);
        assert!(places.iter().all(|place| place.label == url && place.url.starts_with(&url)));
        assert!(Places::find(Some("file:///no/such/folder"), false, folder.path()).is_err());
        assert_eq!(Places::find(Some("memory://"), false, folder.path()).unwrap().iter().count(), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_has_no_room() {
        assert!(room(Path::new("/no/such/folder")).unwrap_err().contains("/no/such/folder"));
    }
}
