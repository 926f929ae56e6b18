//! What becomes of calls that a network file system carries out, whose answer is lost, and which are reported by their second attempt.
//! A double of the kernel stands behind [`Names`] here; `tests/real_faults/lost_answers.rs` has the same through FUSE.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::{Errno, Result};

use super::names::{At, Kernel, Names};
use super::options::{FsyncPolicy, Modes};
use super::probe::{Method, Proven};
use super::temporary::{TEMPORARY_PREFIX, Temporary};
use super::tree::Tree;
use crate::env::Environment;
use crate::parts::{Admission, Workers};
use crate::{ErrorKind, Publication};

/// Carries a call out, or not, and answers as it was told to, once.
#[derive(Debug, Default)]
struct Lossy(Mutex<Vec<Loss>>);

#[derive(Debug, Clone, Copy)]
struct Loss {
    call: &'static str,
    done: bool,
    answer: Errno,
}

impl Lossy {
    fn call(&self, call: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut losses = self.0.lock().unwrap();
        let Some(index) = losses.iter().position(|loss| loss.call == call) else { return make() };
        let loss = losses.remove(index);
        if loss.done {
            make()?;
        }
        Err(loss.answer)
    }
}

impl Names for Lossy {
    fn link(&self, from: At<'_>, to: At<'_>) -> Result<()> {
        self.call("link", || Kernel.link(from, to))
    }

    fn rename(&self, from: At<'_>, to: At<'_>, flags: RenameFlags) -> Result<()> {
        self.call("rename", || Kernel.rename(from, to, flags))
    }

    fn unlink(&self, at: At<'_>, flags: AtFlags) -> Result<()> {
        self.call("unlink", || Kernel.unlink(at, flags))
    }

    fn mkdir(&self, at: At<'_>, mode: Mode) -> Result<()> {
        self.call("mkdir", || Kernel.mkdir(at, mode))
    }
}

const PATH: &str = "v1/namespace/ab/object";

/// A tree on which one call is lost.
fn tree(root: &Path, method: Method, modes: Modes, loss: Option<Loss>) -> Arc<Tree> {
    let mut tree = Tree::bare(root, FsyncPolicy::None, modes, &Environment::default()).unwrap();
    tree.network = true;
    let uid = tree.rights().uid;
    tree.proven.set(Proven { method, uid }).unwrap();
    tree.names = Box::new(Lossy(Mutex::new(loss.into_iter().collect())));
    Arc::new(tree)
}

fn lost(call: &'static str, answer: Errno) -> Option<Loss> {
    Some(Loss { call, done: true, answer })
}

/// A file of ours that is complete, with `text` in it.
fn temporary(tree: &Arc<Tree>, text: &str) -> Temporary {
    let workers = Workers::new("test".into(), 1, 1, Admission::new(1));
    let temporary = Temporary::create(tree, &Arc::new(workers), PATH).unwrap();
    super::io::write_all(&temporary.file(), text.as_bytes(), 0).unwrap();
    temporary
}

fn stands(root: &Path) -> Option<String> {
    std::fs::read_to_string(root.join(PATH)).ok()
}

/// Temporary names beside the object.
fn temporaries(root: &Path, directory: &str) -> usize {
    let names = root.join(directory).read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(TEMPORARY_PREFIX)).count()
}

const METHODS: [(Method, &str); 2] = [(Method::Link, "link"), (Method::Rename, "rename")];

//= SEMANTICS.md#posix-retransmitted
#[test]
fn a_file_that_was_published_is_ours_whatever_the_answer_says() {
    for (method, call) in METHODS {
        for answer in [Errno::EXIST, Errno::NOENT, Errno::TIMEDOUT, Errno::IO] {
            let root = tempfile::tempdir().unwrap();
            // The directories are there, so that the lost rename is not theirs.
            drop(temporary(&tree(root.path(), method, Modes::Private, None), "warm"));
            let tree = tree(root.path(), method, Modes::Private, lost(call, answer));
            let mut ours = temporary(&tree, "ours");
            assert_eq!(ours.link().unwrap(), Publication::Published, "{method:?} {answer}");
            ours.remove().unwrap();
            assert_eq!(stands(root.path()).as_deref(), Some("ours"));
            let mut late = temporary(&tree, "late");
            assert_eq!(late.link().unwrap(), Publication::AlreadyExists, "{method:?} {answer}");
            late.remove().unwrap();
            assert_eq!(stands(root.path()).as_deref(), Some("ours"));
        }
    }
}

//= SEMANTICS.md#posix-retransmitted
#[test]
fn a_file_that_was_not_published_is_an_error_or_somebody_elses() {
    for (method, call) in METHODS {
        let root = tempfile::tempdir().unwrap();
        let mut theirs = temporary(&tree(root.path(), method, Modes::Private, None), "theirs");
        let failed = |answer| Some(Loss { call, done: false, answer });
        for answer in [Errno::NOENT, Errno::TIMEDOUT, Errno::IO] {
            let tree = tree(root.path(), method, Modes::Private, failed(answer));
            let error = temporary(&tree, "ours").link().unwrap_err();
            assert!(error.to_string().contains(PATH), "{error}");
            assert_eq!(stands(root.path()), None, "{method:?} {answer}");
        }
        theirs.link().unwrap();
        let tree = tree(root.path(), method, Modes::Private, failed(Errno::IO));
        let error = temporary(&tree, "ours").link().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Backend, "{error}");
        assert_eq!(stands(root.path()).as_deref(), Some("theirs"));
    }
}

//= SEMANTICS.md#posix-retransmitted
#[test]
fn a_record_that_was_replaced_is_ours_whatever_the_answer_says() {
    let root = tempfile::tempdir().unwrap();
    temporary(&tree(root.path(), Method::Link, Modes::Private, None), "old").link().unwrap();
    for (done, text) in [(true, "new"), (false, "old")] {
        let loss = Loss { call: "rename", done, answer: Errno::NOENT };
        let tree = tree(root.path(), Method::Link, Modes::Private, Some(loss));
        let answer = temporary(&tree, text).replace();
        assert_eq!(answer.is_ok(), done);
        assert_eq!(stands(root.path()).as_deref(), Some("new"));
    }
}

//= SEMANTICS.md#posix-retransmitted
#[test]
fn a_file_that_was_removed_is_gone_by_our_hand_if_it_stood_there() {
    let root = tempfile::tempdir().unwrap();
    let tree = tree(root.path(), Method::Link, Modes::Private, lost("unlink", Errno::NOENT));
    let mut ours = temporary(&tree, "ours");
    ours.link().unwrap();
    assert!(tree.delete_file(PATH).unwrap(), "what we removed was said to have been missing");
    assert_eq!(stands(root.path()), None);
    assert!(!tree.delete_file(PATH).unwrap(), "what nobody has was said to have been removed");
}

//= SEMANTICS.md#posix-retransmitted
#[test]
fn a_directory_that_was_made_is_ours_and_gets_the_stores_mode() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let tree = tree(root.path(), Method::Link, Modes::Group, lost("mkdir", Errno::EXIST));
    let umask = rustix::process::umask(Mode::from_raw_mode(0o077));
    let made = tree.ensure_directory("v1/made");
    rustix::process::umask(umask);
    made.unwrap();
    for path in ["v1", "v1/made"] {
        let mode = root.path().join(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o750, "{path}");
    }
}

//= SEMANTICS.md#posix-retransmitted
//= SEMANTICS.md#posix-fan-out
#[test]
fn a_fan_out_that_was_renamed_is_whole_and_one_that_was_not_is_an_error() {
    for (done, answer) in
        [(true, Errno::NOENT), (true, Errno::EXIST), (true, Errno::NOTEMPTY), (false, Errno::IO)]
    {
        let root = tempfile::tempdir().unwrap();
        let loss = Loss { call: "rename", done, answer };
        let tree = tree(root.path(), Method::Link, Modes::Private, Some(loss));
        assert_eq!(tree.fan_out("v1/namespace").is_ok(), done, "{answer}");
        assert_eq!(temporaries(root.path(), "v1"), 0, "{answer}");
        let count = root.path().join("v1/namespace").read_dir().map_or(0, Iterator::count);
        assert_eq!(count, if done { 256 } else { 0 }, "{answer}");
    }
}
