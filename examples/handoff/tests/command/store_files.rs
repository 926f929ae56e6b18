//! What lies in a `file://` store, seen as files.

use std::fs;
use std::path::{Path, PathBuf};

use kv_format::{Checksum, ObjectHeader};

/// Every file below a directory that is visible to readers or on its way there.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // A directory or file that goes away meanwhile is not there.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // As it was listed: what was renamed meanwhile is no file for that.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Files that readers take for records.
pub(crate) fn records(root: &Path) -> Vec<PathBuf> {
    let mut records = files(&root.join("v1/records"));
    records.retain(|path| !name(path).starts_with('.'));
    records
}

/// Files that readers take for objects.
pub(crate) fn objects(root: &Path) -> Vec<PathBuf> {
    let mut objects = files(&root.join("v1"));
    objects.retain(|path| !path.starts_with(root.join("v1/records")) && !name(path).starts_with('.'));
    objects
}

/// The object of a chunk and a slice; every prompt of these tests has one chain of chunks.
pub(crate) fn object(root: &Path, chunk: u32, slice: u32) -> PathBuf {
    let mut objects = objects(root);
    objects.retain(|path| name(path).ends_with(&format!(".{chunk}.{slice}")));
    assert_eq!(objects.len(), 1, "{objects:?}");
    objects.remove(0)
}

/// Inverts a bit of the last byte of an object's last section.
pub(crate) fn damage(object: &Path) {
    let mut bytes = fs::read(object).unwrap();
    let header = ObjectHeader::decode(&bytes, bytes.len() as u64).unwrap();
    let last = header.layout.sections.last().unwrap();
    bytes[usize::try_from(last.offset + last.len - 1).unwrap()] ^= 1;
    fs::write(object, bytes).unwrap();
}

/// Nothing was saved, and nothing is on its way.
#[track_caller]
pub(crate) fn assert_empty(root: &Path) {
    assert_eq!(files(&root.join("v1")), [] as [PathBuf; 0]);
}

/// Every object decodes and each of its sections has its checksum, and nothing is on its way in.
#[track_caller]
pub(crate) fn assert_whole(root: &Path) {
    for path in files(root) {
        assert!(!name(&path).starts_with('.'), "{} is left over", path.display());
    }
    for path in objects(root) {
        let bytes = fs::read(&path).unwrap();
        let header = ObjectHeader::decode(&bytes, bytes.len() as u64)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(header.layout.sections.len(), header.checksums.len());
        for (section, checksum) in header.layout.sections.iter().zip(&header.checksums) {
            let start = usize::try_from(section.offset).unwrap();
            let section = &bytes[start..][..usize::try_from(section.len).unwrap()];
            assert_eq!(Checksum::of(section), *checksum, "{}", path.display());
        }
    }
}
