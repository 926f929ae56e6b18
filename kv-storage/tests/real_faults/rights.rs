//! Owners and modes of what the store finds, and who may open a group's store.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use kv_storage::posix::Modes;
use kv_storage::{Error, ErrorKind, FormatOptions, KvStore, PosixOptions, PosixStore, Publication};

use crate::require::skip;
use crate::{folder, name, open, publish, read_all};

/// A user that is nobody here, and a group.
const STRANGER: u32 = 54_321;
const GROUP: u32 = 54_322;

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives a file away; `None`, with a word on stderr, where that is not permitted.
fn give(path: &Path, user: Option<u32>, group: Option<u32>) -> Option<()> {
    match chown(path, user, group) {
        Ok(()) => Some(()),
        Err(error) => skip(&format!("a file cannot be given to another user here ({error}); run as root")),
    }
}

#[track_caller]
fn assert_denied(answer: Result<(), Error>, words: &[&str]) {
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    for words in words {
        assert!(error.to_string().contains(words), "{error} does not say {words:?}");
    }
}

//= SEMANTICS.md#posix-root
#[tokio::test]
async fn a_root_that_others_could_write_or_own_is_refused() {
    let root = folder();
    let path = root.path().display().to_string();
    for (mode, text) in [(0o777, "mode 0777"), (0o1777, "mode 1777"), (0o702, "mode 0702")] {
        set_mode(root.path(), mode);
        let format = PosixStore::format(root.path(), FormatOptions::default()).await;
        assert_denied(format.map(drop), &[&path, text, "not world-writable", "chmod"]);
        assert_eq!(root.path().read_dir().unwrap().count(), 0);
    }
    set_mode(root.path(), 0o775);
    let store = open(root.path()).await;
    publish(&store, &name(1), b"body").await.unwrap();
    set_mode(root.path(), 0o777);
    let again = PosixStore::open(root.path(), PosixOptions::default()).await;
    assert_denied(again.map(drop), &[&path, "mode 0777"]);
    set_mode(root.path(), 0o700);
    let Some(()) = give(root.path(), Some(STRANGER), None) else { return };
    let again = PosixStore::open(root.path(), PosixOptions::default()).await;
    assert_denied(again.map(drop), &[&path, "expected owner", "found owner 54321"]);
}

//= SEMANTICS.md#posix-marker
#[tokio::test]
async fn a_marker_that_others_could_write_is_refused() {
    let root = folder();
    open(root.path()).await;
    let marker = root.path().join("kvbridge-store");
    set_mode(&marker, 0o666);
    let again = PosixStore::open(root.path(), PosixOptions::default()).await;
    assert_denied(again.map(drop), &["kvbridge-store is refused", "mode 0666"]);
    set_mode(&marker, 0o600);
    let Some(()) = give(&marker, Some(STRANGER), None) else { return };
    let again = PosixStore::open(root.path(), PosixOptions::default()).await;
    assert_denied(again.map(drop), &["kvbridge-store is refused", "found owner 54321"]);
}

/// Every way to look at what stands at a name is denied, and a save cannot hide it.
async fn assert_refused(store: &PosixStore, words: &[&str]) {
    let mut words = words.to_vec();
    let path = name(1).to_string();
    words.push(&path);
    assert_denied(read_all(store, &name(1), 4).await.map(drop), &words);
    assert_denied(store.head(&name(1)).await.map(drop), &words);
}

//= SEMANTICS.md#posix-owner
#[tokio::test]
async fn a_file_that_others_could_have_written_is_refused() {
    let root = folder();
    let store = open(root.path()).await;
    publish(&store, &name(1), b"body").await.unwrap();
    let file = root.path().join(name(1).to_string());
    for (mode, text) in [(0o602, "mode 0602"), (0o660, "mode 0660")] {
        set_mode(&file, mode);
        assert_refused(&store, &[text, "not group or world-writable"]).await;
    }
    set_mode(&file, 0o644);
    assert_eq!(read_all(&store, &name(1), 4).await.unwrap().as_deref(), Some(&b"body"[..]));
    let Some(()) = give(&file, Some(STRANGER), None) else { return };
    assert_refused(&store, &["expected owner 0", "found owner 54321"]).await;
    assert_eq!(publish(&store, &name(1), b"new").await.unwrap(), Publication::AlreadyExists);
}

//= SEMANTICS.md#posix-owner
#[tokio::test]
async fn a_directory_that_others_could_have_written_is_refused() {
    let root = folder();
    let store = open(root.path()).await;
    publish(&store, &name(1), b"body").await.unwrap();
    let directory = root.path().join("v1").join(name(1).namespace.to_string()).join("01");
    let refused = async |words: &[&str]| {
        assert_denied(read_all(&store, &name(1), 4).await.map(drop), words);
        assert_denied(store.head(&name(1)).await.map(drop), words);
        assert_denied(store.list(&name(1).namespace, None, 1).await.map(drop), words);
        assert_denied(store.begin(&name(1), 4).await.map(drop), words);
    };
    set_mode(&directory, 0o777);
    refused(&["/01 is refused", "mode 0777"]).await;
    set_mode(&directory, 0o700);
    let Some(()) = give(&directory, Some(STRANGER), None) else { return };
    refused(&["/01 is refused", "found owner 54321"]).await;
}

//= SEMANTICS.md#posix-group
#[tokio::test]
async fn a_groups_files_have_the_groups_id_and_those_of_other_groups_are_refused() {
    let root = folder();
    let Some(()) = give(root.path(), None, Some(GROUP)) else { return };
    PosixStore::format(root.path(), FormatOptions::default().modes(Modes::Group)).await.unwrap();
    let store = open(root.path()).await;
    publish(&store, &name(1), b"body").await.unwrap();
    let file = root.path().join(name(1).to_string());
    for path in file.ancestors().take_while(|path| *path != root.path()) {
        assert_eq!(path.metadata().unwrap().gid(), GROUP, "{}", path.display());
    }
    assert_eq!(root.path().join("kvbridge-store").metadata().unwrap().gid(), GROUP);
    // Another user of the group may have saved it; nobody else may.
    chown(&file, Some(STRANGER), None).unwrap();
    assert_eq!(read_all(&store, &name(1), 4).await.unwrap().as_deref(), Some(&b"body"[..]));
    chown(&file, Some(STRANGER), Some(STRANGER)).unwrap();
    assert_refused(&store, &["or group 54322", "group 54321"]).await;
}

const ROOT: &str = "KV_STORAGE_TEST_GROUP_ROOT";

/// Run by the test below as another user.
#[tokio::test]
#[ignore = "a child process of `another_user_of_the_group_loads_and_one_outside_does_not`"]
async fn opens_as_another_user() {
    let root = std::env::var(ROOT).unwrap();
    let root = Path::new(&root);
    match PosixStore::open(root, PosixOptions::default()).await {
        Ok(store) => {
            let read = read_all(&store, &name(1), 4).await.unwrap();
            assert_eq!(read.as_deref(), Some(&b"body"[..]));
            assert_denied(store.begin(&name(2), 4).await.map(drop), &["Permission denied"]);
            assert_denied(store.delete(&name(1)).await.map(drop), &["Permission denied"]);
            println!("outcome: it reads");
        }
        Err(error) => {
            assert_denied(Err(error), &[&root.display().to_string()]);
            println!("outcome: it is denied");
        }
    }
}

//= SEMANTICS.md#posix-group
#[tokio::test]
async fn another_user_of_the_group_loads_and_one_outside_does_not() {
    for (modes, root_mode, group, outcome) in [
        (Modes::Group, 0o750, GROUP, "it reads"),
        (Modes::Group, 0o770, GROUP, "it reads"),
        (Modes::Group, 0o755, STRANGER, "it is denied"),
        (Modes::Private, 0o755, GROUP, "it is denied"),
    ] {
        let root = folder();
        set_mode(root.path(), root_mode);
        let Some(()) = give(root.path(), None, Some(GROUP)) else { return };
        PosixStore::format(root.path(), FormatOptions::default().modes(modes)).await.unwrap();
        publish(&open(root.path()).await, &name(1), b"body").await.unwrap();
        // This link needs no right to search the directories in which the test binary lies.
        let mut child = Command::new("/proc/self/exe");
        child.args(["--exact", "rights::opens_as_another_user", "--ignored", "--nocapture"]);
        let child = child.env(ROOT, root.path()).current_dir("/").uid(STRANGER).gid(group).output().unwrap();
        let output =
            String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{modes} {root_mode:o} {group}: {output}");
        assert!(output.contains(&format!("outcome: {outcome}")), "{modes} {root_mode:o} {group}: {output}");
    }
}
