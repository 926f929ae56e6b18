//! Tries at open what the store lives on: create, write, publish without replacing, read back, remove. Blocks.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{RenameFlags, fstat};
use rustix::io::Errno;

use super::io::{read_all, write_all};
use super::temporary::temporary_name;
use super::tree::{Tree, kind_of};
use crate::{Error, ErrorKind, Result};

const BODY: &[u8] = b"kvbridge probe: safe to delete";

/// How a file gets its name if, and only if, the name is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// A hard link beside the temporary name, which is removed then.
    Link,
    /// A rename that does not replace: on file systems of the kernel's own, and where there are no hard links.
    Rename,
}

/// What the probe found out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proven {
    pub(super) method: Method,
    /// The owner of the files that we make.
    pub(super) uid: u32,
}

impl Tree {
    /// How files are published here; probes now if the file system was full when it was opened.
    pub(super) fn method(self: &Arc<Self>) -> Result<Method> {
        match self.proven.get() {
            Some(proven) => Ok(proven.method),
            None => {
                let proven = attempt(self)?;
                Ok(self.proven.get_or_init(|| proven).method)
            }
        }
    }
}

/// Proves that the root can be written, that publishing does not replace, and that what is read is what was written. A full file
/// system passes: what it holds can still be read, and whoever writes is told.
pub(super) fn probe(tree: &Arc<Tree>) -> Result<()> {
    match attempt(tree) {
        Ok(proven) => {
            tree.proven.get_or_init(|| proven);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NoSpace => Ok(()),
        Err(error) => Err(error),
    }
}

/// A file of the probe's own.
struct Trial<'a> {
    tree: &'a Arc<Tree>,
    root: OwnedFd,
    file: OwnedFd,
    name: String,
    second: String,
}

fn attempt(tree: &Arc<Tree>) -> Result<Proven> {
    let root = tree.directory("")?.ok_or_else(|| {
        let message = "the root directory went away while it was opened";
        Error::new(ErrorKind::Unavailable, tree, message)
    })?;
    let name = temporary_name(tree);
    let second = format!("{name}.probe");
    let file = tree.create_file(&root, &name).map_err(|errno| fail(tree, "creating", errno))?;
    let trial = Trial { tree, root, file, name, second };
    let tried = trial.run();
    let removed = [&trial.name, &trial.second].map(|name| tree.remove(&trial.root, name, name));
    let proven = tried?;
    for removed in removed {
        removed?;
    }
    Ok(proven)
}

fn fail(tree: &Tree, step: &str, errno: Errno) -> Error {
    let message = format!(
        "expected a directory that can be written, but {step} a file in it failed: {errno}; check owner, modes, mount options and free space"
    );
    Error::new(kind_of(errno), tree, message).with_source(errno)
}

impl Trial<'_> {
    fn run(&self) -> Result<Proven> {
        let fail = |step: &'static str| move |errno| fail(self.tree, step, errno);
        write_all(&self.file, BODY, 0).map_err(fail("writing"))?;
        self.tree.sync_file(&self.file).map_err(fail("flushing"))?;
        self.tree.close_copy(&self.file).map_err(fail("closing"))?;
        let mut back = vec![0; BODY.len()];
        let whole = read_all(&self.file, &mut back, 0).map_err(fail("reading"))?;
        if !whole || back != BODY {
            let message = "a file read back differs from what was written to it: do not use this disk";
            return Err(Error::new(ErrorKind::Backend, self.tree, message));
        }
        let uid = fstat(&self.file).map_err(fail("examining"))?.st_uid;
        Ok(Proven { method: self.method()?, uid })
    }

    /// The first method that gives a free name and refuses a taken one. Where the kernel itself keeps the names that is a rename, one
    /// change of the directory instead of two; elsewhere a flag may be checked against what this host believes, and a link is not.
    fn method(&self) -> Result<Method> {
        let names = &self.tree.names;
        let (from, to) = ((&self.root, self.name.as_str()), (&self.root, self.second.as_str()));
        if self.tree.kernels_own {
            self.take_second_name()?;
            if self.renames().is_ok() {
                return Ok(Method::Rename);
            }
        }
        let linked = match names.link(from, to) {
            Err(Errno::EXIST) if self.tree.is_same(&self.file, to.0, to.1) => Ok(()),
            answer => answer,
        };
        match linked {
            Ok(()) if names.link(from, to) == Err(Errno::EXIST) => return Ok(Method::Link),
            Ok(()) => {}
            // What file systems answer that have no hard links.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::MLINK) => {
                self.take_second_name()?;
            }
            Err(errno) => return Err(fail(self.tree, "hard-linking", errno)),
        }
        let Err(renamed) = self.renames() else { return Ok(Method::Rename) };
        let message = format!(
            "this file system can neither hard-link nor rename without replacing ({linked:?}, {renamed:?}): expected one of them, since objects are create-only; use another file system"
        );
        Err(Error::new(ErrorKind::Unsupported, self.tree, message))
    }

    /// Another file has the second name.
    fn take_second_name(&self) -> Result<()> {
        let other = self.tree.create_file(&self.root, &self.second);
        other.map(drop).map_err(|errno| fail(self.tree, "creating", errno))
    }

    /// Whether a rename refuses the second name, which is taken, and gets it once it is free; if not, what the rename answered.
    fn renames(&self) -> std::result::Result<(), rustix::io::Result<()>> {
        let rename = || {
            let (from, to) = ((&self.root, self.name.as_str()), (&self.root, self.second.as_str()));
            self.tree.names.rename(from, to, RenameFlags::NOREPLACE)
        };
        let refused = rename();
        let removed = self.tree.remove(&self.root, &self.second, &self.second);
        if refused != Err(Errno::EXIST) || removed.is_err() {
            return Err(refused);
        }
        match rename() {
            Err(errno) if !self.tree.is_same(&self.file, &self.root, &self.second) => Err(Err(errno)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Environment;
    use crate::posix::{FsyncPolicy, Modes};

    //= SEMANTICS.md#posix-publish-atomic
    #[test]
    fn the_kernels_own_file_systems_publish_by_a_rename_and_others_by_a_link() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let bare =
            || Tree::bare(root.path(), FsyncPolicy::None, Modes::Private, &Environment::default()).unwrap();
        assert!(bare().kernels_own, "a tmpfs is");
        for (kernels_own, method) in [(true, Method::Rename), (false, Method::Link)] {
            let mut tree = bare();
            tree.kernels_own = kernels_own;
            assert_eq!(attempt(&Arc::new(tree)).unwrap().method, method);
            assert_eq!(root.path().read_dir().unwrap().count(), 0, "what the probe made is left");
        }
    }
}
