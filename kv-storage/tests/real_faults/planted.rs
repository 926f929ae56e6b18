//! What stands at a name and was not put there by the store.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kv_format::{ChunkKey, ObjectName, RecordName};
use kv_storage::{ErrorKind, KvStore, Publication};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::require::skip;
use crate::{files_in, folder, name, open, publish, read_byte};

//= SEMANTICS.md#posix-beneath
#[tokio::test]
async fn what_stands_at_an_objects_name_and_is_no_file_is_refused() {
    let root = folder();
    let store = open(root.path()).await;
    publish(&store, &name(1), b"innocent").await.unwrap();
    let target = root.path().join(name(1).to_string());
    let secret = root.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    type Plant<'a> = (&'a str, &'a dyn Fn(&Path));
    let elsewhere = root.path().join("elsewhere");
    std::fs::write(&elsewhere, "elsewhere").unwrap();
    std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o600)).unwrap();
    let plants: [Plant<'_>; 6] = [
        ("a link to a file outside", &|path| std::os::unix::fs::symlink(&secret, path).unwrap()),
        ("a link to another object", &|path| std::os::unix::fs::symlink(&target, path).unwrap()),
        ("a FIFO", &|path| {
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        }),
        ("a directory", &|path| std::fs::create_dir(path).unwrap()),
        ("a hard link to a file outside", &|path| std::fs::hard_link(&elsewhere, path).unwrap()),
        ("a device", &|path| {
            // The null device: it can be opened, and would give bytes.
            let made =
                mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(1, 3));
            let _: Option<()> = made
                .map_or_else(|error| skip(&format!("no device can be made ({error}); run as root")), Some);
        }),
    ];
    for (n, (what, plant)) in (10..).zip(plants) {
        let planted =
            ObjectName { key: ChunkKey(std::array::from_fn(|i| if i == 0 { 1 } else { n })), ..name(1) };
        let place = root.path().join(planted.to_string());
        plant(&place);
        if place.symlink_metadata().is_err() {
            continue; // the test said why
        }
        let refused = |error: kv_storage::Error| {
            let kind = error.kind();
            assert_eq!(kind, ErrorKind::PermissionDenied, "{what}: {error}");
            assert!(error.to_string().contains(&planted.to_string()), "{what}: {error}");
        };
        refused(read_byte(&store, &planted).await.unwrap_err());
        refused(store.head(&planted).await.unwrap_err());
        // It can neither be replaced nor hidden by a save.
        assert_eq!(publish(&store, &planted, b"new").await.unwrap(), Publication::AlreadyExists, "{what}");
        let listed = store.list(&planted.namespace, None, 10).await.unwrap();
        // Of what is planted a listing shows regular files only, and reading those says why they are refused.
        let regular = usize::from(what.starts_with("a hard link"));
        assert_eq!(listed.len(), 1 + regular, "{what} is listed: {listed:?}");
        std::fs::remove_file(&place).or_else(|_| std::fs::remove_dir(&place)).unwrap();
    }
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
}

#[tokio::test]
async fn a_linked_directory_on_the_way_is_refused_and_nothing_is_made_behind_it() {
    let (root, outside) = (folder(), folder());
    let store = open(root.path()).await;
    std::fs::remove_dir_all(root.path().join("v1")).unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("v1")).unwrap();
    store.begin(&name(1), 1).await.map(drop).unwrap_err();
    read_byte(&store, &name(1)).await.unwrap_err();
    store.list(&name(1).namespace, None, 1).await.unwrap_err();
    store.create_record(&RecordName::request("r", 0), b"r").await.unwrap_err();
    assert_eq!(files_in(outside.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_file_where_a_directory_should_be_is_an_error_and_no_miss() {
    let root = folder();
    let store = open(root.path()).await;
    std::fs::remove_dir_all(root.path().join("v1")).unwrap();
    std::fs::write(root.path().join("v1"), "").unwrap();
    for answer in [
        read_byte(&store, &name(1)).await.map(drop),
        store.head(&name(1)).await.map(drop),
        store.begin(&name(1), 1).await.map(drop),
        store.list(&name(1).namespace, None, 1).await.map(drop),
    ] {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Backend, "{error}");
        assert!(error.to_string().contains("v1/"), "{error}");
    }
}

//= SEMANTICS.md#posix-hard-links
#[tokio::test]
async fn a_second_name_is_refused_unless_it_is_the_temporary_one_of_a_publication() {
    let root = folder();
    let store = open(root.path()).await;
    publish(&store, &name(1), b"body").await.unwrap();
    let object = root.path().join(name(1).to_string());
    // What a process leaves that is killed between the link and the removal of its temporary name.
    let temporary = object.with_file_name(".kv-tmp.host.1.0123456789abcdef");
    std::fs::hard_link(&object, &temporary).unwrap();
    assert_eq!(read_byte(&store, &name(1)).await.unwrap(), Some(b'b'));
    assert!(store.head(&name(1)).await.unwrap().is_some());
    // A third name, or a second one anywhere else: in another directory, or a stranger's here.
    let elsewhere = [root.path().join("elsewhere"), object.with_file_name("neighbour")];
    for (n, other) in elsewhere.iter().chain(&elsewhere).enumerate() {
        std::fs::hard_link(&object, other).unwrap();
        for error in [
            read_byte(&store, &name(1)).await.map(drop).unwrap_err(),
            store.head(&name(1)).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            let names = if n < 2 { "found 3 (hard links)" } else { "found 2 (hard links)" };
            assert!(error.to_string().contains(names), "{error}");
        }
        std::fs::remove_file(other).unwrap();
        if n == 1 {
            assert_eq!(store.sweep(std::time::Duration::ZERO).await.unwrap(), 1);
        }
    }
    assert_eq!(read_byte(&store, &name(1)).await.unwrap(), Some(b'b'));
}

// Row 61.
//= SEMANTICS.md#posix-names
#[tokio::test]
async fn no_id_of_a_user_reaches_a_path() {
    let root = folder();
    let inside = root.path().join("store");
    std::fs::create_dir(&inside).unwrap();
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o700)).unwrap();
    let store = open(&inside).await;
    let long = "x".repeat(100_000);
    let ids = [
        "../../../etc/passwd",
        "/etc/passwd",
        "a/../..",
        ".",
        "..",
        "",
        "nul\0byte",
        "\u{202e}txt.exe",
        "é",
        &long,
    ];
    for (part, id) in (0..).zip(ids) {
        let record = RecordName::request(id, part);
        store.create_record(&record, b"body").await.unwrap().unwrap();
        assert_eq!(store.read_record(&record).await.unwrap().unwrap().body, b"body");
        let path = inside.join(record.to_string());
        let file = path.file_name().unwrap().to_str().unwrap();
        let (digest, number) = file.split_once('.').unwrap();
        assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{file}");
        assert_eq!(number, part.to_string());
        assert!(path.is_file(), "{}", path.display());
    }
    assert_eq!(files_in(root.path()), std::slice::from_ref(&inside));
    let mut beneath = files_in(&inside);
    beneath.sort();
    assert_eq!(beneath, [inside.join("kvbridge-store"), inside.join("v1")]);
}
