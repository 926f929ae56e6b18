//! Whom the store believes: owners and modes of what stands beneath the root.
//!
//! Checksums find damage, not malice: whoever can write a file can write its checksums. So what others could have written is
//! refused before a byte of it is read.

use rustix::fs::Stat;

use super::options::Modes;

/// Write permission for the group.
const GROUP_WRITES: u32 = 0o020;
/// Write permission for everybody.
const WORLD_WRITES: u32 = 0o002;

/// Who we are to this file system, and whom the store's modes let in beside us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights {
    /// The owner that our own files get, which a server may choose (`root_squash`).
    pub(super) uid: u32,
    /// The group of the root directory: in group mode, everybody's who shares the store.
    pub(super) group: u32,
    /// The owner of the root directory.
    pub(super) root_owner: u32,
    pub(super) modes: Modes,
}

impl Rights {
    /// Judges the root directory, whose owner and mode are the operator's choice.
    pub(super) fn root(&self, stat: &Stat) -> Result<(), String> {
        let owned = match self.modes {
            Modes::Private => stat.st_uid == self.uid || stat.st_uid == 0,
            Modes::Group => true,
        };
        let owner = match self.modes {
            Modes::Private => format!("{} or 0", self.uid),
            Modes::Group => "anybody".to_owned(),
        };
        judge(stat, owned, &owner, WORLD_WRITES)
    }

    /// Judges a directory beneath the root.
    pub(super) fn directory(&self, stat: &Stat) -> Result<(), String> {
        let refused = match self.modes {
            Modes::Private => GROUP_WRITES | WORLD_WRITES,
            Modes::Group => WORLD_WRITES,
        };
        judge(stat, self.owned(stat), &self.owner(), refused)
    }

    /// Judges an object or a record. The store itself never lets a group write one.
    pub(super) fn file(&self, stat: &Stat) -> Result<(), String> {
        judge(stat, self.owned(stat), &self.owner(), GROUP_WRITES | WORLD_WRITES)
    }

    /// Judges the marker, which whoever owns the root may have written.
    pub(super) fn marker(&self, stat: &Stat) -> Result<(), String> {
        let owned = [self.uid, self.root_owner, 0].contains(&stat.st_uid);
        let owner = format!("{}, {} or 0", self.uid, self.root_owner);
        judge(stat, owned, &owner, GROUP_WRITES | WORLD_WRITES)
    }

    fn owned(&self, stat: &Stat) -> bool {
        stat.st_uid == self.uid || self.modes == Modes::Group && stat.st_gid == self.group
    }

    fn owner(&self) -> String {
        match self.modes {
            Modes::Private => self.uid.to_string(),
            Modes::Group => format!("{} or group {}", self.uid, self.group),
        }
    }
}

/// What was expected and what was found, unless they agree.
fn judge(stat: &Stat, owned: bool, owner: &str, refused: u32) -> Result<(), String> {
    let mode = stat.st_mode & 0o7777;
    if owned && mode & refused == 0 {
        return Ok(());
    }
    let writers = if refused & GROUP_WRITES == 0 { "world" } else { "group or world" };
    Err(format!(
        "expected owner {owner} and a mode that is not {writers}-writable, found owner {}, group {} and mode {mode:04o}",
        stat.st_uid, stat.st_gid
    ))
}
