//! Makes a directory into a store, once: its marker, and the fan-out of what can be known before the first save. Everything here
//! blocks.
//!
//! The marker comes first, so that whatever else stands beneath the root was made under its rules; a process that dies behind it
//! leaves a store that lacks some directories, and whoever needs them makes them.

use std::path::Path;
use std::sync::Arc;

use kv_format::RecordKind;

use super::crash;
use super::io::write_all;
use super::marker::{MARKER, Marker};
use super::objects::QUARANTINE;
use super::options::{FormatOptions, FsyncPolicy, Modes};
use super::probe;
use super::temporary::Temporary;
use super::tree::Tree;
use crate::parts::Workers;
use crate::{Error, ErrorKind, Publication, Result};

/// What may stand in a directory that becomes a store, beside names that begin with a dot (snapshots, temporary files): what
/// `mkfs` leaves, and a store that has lost its marker.
const LOST_AND_FOUND: &str = "lost+found";
const OURS: [&str; 2] = ["v1", QUARANTINE];

/// Formats `root`; `false` if it was formatted already, by us or by somebody who was faster.
pub(super) fn format(workers: &Arc<Workers>, root: &Path, options: &FormatOptions) -> Result<bool> {
    let tree = Arc::new(Tree::bare(root, FsyncPolicy::Durable, options.modes, &options.environment)?);
    tree.check_root()?;
    probe::probe(&tree)?;
    let created = mark(&tree, workers, options.modes, &OURS)?;
    for kind in RecordKind::ALL {
        make(&tree, &format!("v1/records/{}", kind.as_str()))?;
    }
    for namespace in &options.namespaces {
        make(&tree, &format!("v1/{namespace}"))?;
    }
    Ok(created)
}

/// Formats the tree's root if there is nothing in it, as part of opening it.
pub(super) fn format_empty(tree: &Arc<Tree>, workers: &Arc<Workers>, modes: Modes) -> Result<()> {
    mark(tree, workers, modes, &[])?;
    for kind in RecordKind::ALL {
        make(tree, &format!("v1/records/{}", kind.as_str()))?;
    }
    Ok(())
}

/// Makes a fan-out, and what is above it.
fn make(tree: &Tree, path: &str) -> Result<()> {
    tree.fan_out(path)?;
    tree.settle(&format!("{path}/00"), true)
}

/// Publishes the marker; `false` if there is one with the same modes.
fn mark(tree: &Arc<Tree>, workers: &Arc<Workers>, modes: Modes, tolerated: &[&str]) -> Result<bool> {
    if !marked(tree, modes)? {
        if let Some(stranger) = stranger(tree, tolerated)? {
            // Another process may have formatted it since we looked.
            return if marked(tree, modes)? { Ok(false) } else { Err(not_empty(tree, &stranger)) };
        }
        if write(tree, workers, modes)? == Publication::Published {
            return Ok(true);
        }
        if !marked(tree, modes)? {
            let message = format!("{MARKER} went away while the directory was formatted: format it again");
            return Err(Error::new(ErrorKind::Unavailable, tree, message));
        }
    }
    Ok(false)
}

/// Whether there is a marker; fails if it is one of other modes.
fn marked(tree: &Tree, modes: Modes) -> Result<bool> {
    match tree.marker()? {
        None => Ok(false),
        Some((marker, _)) if marker.modes == modes => Ok(true),
        Some((marker, _)) => Err(tree.other_modes(modes, marker.modes)),
    }
}

/// Something in the root that was there before us.
fn stranger(tree: &Tree, tolerated: &[&str]) -> Result<Option<String>> {
    let Some(root) = tree.directory("")? else { return Ok(None) };
    let mut stranger = None;
    tree.entries(&root, "", |name| {
        if !name.starts_with('.') && name != LOST_AND_FOUND && !tolerated.contains(&name) {
            stranger = Some(name.to_owned());
        }
    })?;
    Ok(stranger)
}

fn not_empty(tree: &Tree, found: &str) -> Error {
    let message = format!(
        "the directory has no marker {MARKER} and is not empty: expected an empty directory to format, found {found:?}; choose another, or empty it"
    );
    Error::new(ErrorKind::Invalid, tree, message)
}

fn write(tree: &Arc<Tree>, workers: &Arc<Workers>, modes: Modes) -> Result<Publication> {
    let mut temporary = Temporary::create(tree, workers, MARKER)?;
    tree.reach(crash::MARKER_TEMP_CREATED);
    let text = Marker::new(modes).to_json();
    write_all(&temporary.file(), text.as_bytes(), 0).map_err(|errno| tree.error("write", MARKER, errno))?;
    temporary.sync()?;
    let publication = temporary.link()?;
    tree.reach(crash::MARKER_LINKED);
    let _ = temporary.remove(); // a sweep removes what is left
    temporary.sync_directory()?;
    Ok(publication)
}
