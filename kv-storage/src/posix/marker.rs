//! The marker of a formatted store: what a process must know before it touches anything beneath the root. Everything here blocks.

use rustix::fs::Stat;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::io::read_all;
use super::options::Modes;
use super::tree::{Tree, len_of};
use crate::{Error, ErrorKind, Result};

/// Its name in the root directory.
pub(super) const MARKER: &str = "kvbridge-store";
/// The format major version that this crate reads and writes; `v1` in every name.
const FORMAT: u32 = 1;
/// Levels of directories of two hexadecimal digits between a namespace and its objects. Names have one, so there is no other yet.
const FAN_OUT_DEPTH: u32 = 1;
/// A marker has about a hundred bytes: more than this is none.
const MAX_BYTES: u64 = 4096;

/// What the marker says. Fields that a later minor version adds are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    format: u32,
    fan_out_depth: u32,
    pub(super) modes: Modes,
    created_by: String,
}

/// Read first: of another major version nothing else is known.
#[derive(Deserialize)]
struct Major {
    format: u32,
}

impl Marker {
    /// The marker of a new store.
    pub(super) fn new(modes: Modes) -> Self {
        let created_by = concat!("kv-storage ", env!("CARGO_PKG_VERSION")).to_owned();
        Self { format: FORMAT, fan_out_depth: FAN_OUT_DEPTH, modes, created_by }
    }

    /// As text for people and programs.
    pub(super) fn to_json(&self) -> String {
        // A struct of numbers and strings has a text in every case.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

impl Tree {
    /// The marker and its file's status; `None` if there is none.
    pub(super) fn marker(&self) -> Result<Option<(Marker, Stat)>> {
        let Some((file, stat)) = self.plain_file(MARKER)? else { return Ok(None) };
        let len = len_of(&stat);
        if len > MAX_BYTES {
            return Err(self.damaged(&format!("{len} bytes")));
        }
        let mut text = vec![0; usize::try_from(len).unwrap_or_default()];
        match read_all(&file, &mut text, 0) {
            Ok(true) => {}
            Ok(false) => return Err(self.damaged("fewer bytes than it has")),
            Err(Errno::STALE) => return Ok(None),
            Err(errno) => return Err(self.error("read", MARKER, errno)),
        }
        let major: Major = serde_json::from_slice(&text).map_err(|error| self.damaged(&error.to_string()))?;
        if major.format != FORMAT {
            let found = major.format;
            return Err(self.unsupported(&format!(
                "store format {FORMAT}, found {found}: use the kvbridge that formatted it, or a newer one"
            )));
        }
        let marker: Marker =
            serde_json::from_slice(&text).map_err(|error| self.damaged(&error.to_string()))?;
        if marker.fan_out_depth != FAN_OUT_DEPTH {
            let found = marker.fan_out_depth;
            return Err(self.unsupported(&format!(
                "a fan-out of depth {FAN_OUT_DEPTH}, found {found}: use a newer kvbridge"
            )));
        }
        Ok(Some((marker, stat)))
    }

    fn unsupported(&self, expectation: &str) -> Error {
        let message = format!("{}/{MARKER}: expected {expectation}", self.path().display());
        Error::new(ErrorKind::Unsupported, self, message)
    }

    fn damaged(&self, found: &str) -> Error {
        let example = Marker::new(Modes::Private).to_json();
        let message = format!(
            "{}/{MARKER} is damaged: expected {}, found {found}; objects are not affected, write the marker again",
            self.path().display(),
            example.trim_end()
        );
        Error::new(ErrorKind::Backend, self, message)
    }

    /// The error of a directory that nobody has formatted.
    pub(super) fn unformatted(&self) -> Error {
        let path = self.path().display();
        let message = format!(
            "no store yet: expected the file {MARKER}, found none; format the directory once, with kv_storage::format(\"file://{path}\")"
        );
        Error::new(ErrorKind::Invalid, self, message)
    }

    /// The error of options that ask for other modes than the marker has.
    pub(super) fn other_modes(&self, expected: Modes, found: Modes) -> Error {
        let message = format!(
            "the store was formatted with modes {found}, expected {expected}: leave the modes out to take the store's, or use another directory"
        );
        Error::new(ErrorKind::Invalid, self, message)
    }
}
