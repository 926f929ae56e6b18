//! A directory becomes a store by one explicit step, and a marker says what kind of store it is.
#![expect(clippy::unwrap_used, reason = "the functions that tests share are test code too")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kv_format::{ChunkKey, NamespaceDigest, ObjectName};
use kv_memory::HostBuf;
use kv_storage::posix::{FsyncPolicy, Modes};
use kv_storage::{ErrorKind, FormatOptions, KvStore, PosixOptions, PosixStore, Publication};

const MARKER: &str = "kvbridge-store";

/// A new directory, in memory where there is a tmpfs: a disk takes a tenth of a second for the 256 directories of a namespace.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn namespace(n: u8) -> NamespaceDigest {
    NamespaceDigest([n; 32])
}

async fn publish(store: &PosixStore, namespace: NamespaceDigest) -> Publication {
    let name = ObjectName { namespace, key: ChunkKey([0xab; 32]), chunk_index: 0, slice: 0 };
    let upload = store.begin(&name, 4).await.unwrap();
    upload.write(0, HostBuf::copy_of(b"body").unwrap()).await.1.unwrap();
    upload.commit().await.unwrap()
}

/// Names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = directory
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn all_two_digits() -> Vec<String> {
    (0..=255).map(|n| format!("{n:02x}")).collect()
}

/// Options under which nothing is formatted on the way.
fn plain() -> PosixOptions {
    PosixOptions::default().fsync(FsyncPolicy::None)
}

//= SEMANTICS.md#posix-format
#[tokio::test]
async fn a_directory_that_nobody_formatted_is_refused_and_stays_empty() {
    let root = folder();
    let error = PosixStore::open(root.path(), plain()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let advice = format!("kv_storage::format(\"file://{}\")", root.path().display());
    assert!(error.to_string().contains(&advice), "{error}");
    assert_eq!(names(root.path()), Vec::<String>::new());
    assert!(PosixStore::format(root.path(), FormatOptions::default()).await.unwrap());
    assert_eq!(names(root.path()), [MARKER, "v1"]);
    PosixStore::open(root.path(), plain()).await.unwrap();
}

//= SEMANTICS.md#posix-format-twice
#[tokio::test(flavor = "multi_thread")]
async fn formatting_twice_is_harmless_and_so_are_many_at_once() {
    let root = folder();
    let format = || {
        let path = root.path().to_owned();
        tokio::spawn(async move {
            PosixStore::format(&path, FormatOptions::default().namespace(namespace(1))).await.unwrap()
        })
    };
    let empty = || {
        let path = root.path().to_owned();
        tokio::spawn(async move {
            PosixStore::open(&path, plain().format_if_empty(true)).await.map(drop).unwrap();
            false
        })
    };
    let racing: Vec<_> = (0..8).map(|n| if n % 2 == 0 { format() } else { empty() }).collect();
    let mut formatted = 0;
    for one in racing {
        formatted += usize::from(one.await.unwrap());
    }
    assert!(formatted <= 1, "{formatted} made the one store");
    let store = PosixStore::open(root.path(), plain()).await.unwrap();
    assert_eq!(publish(&store, namespace(1)).await, Publication::Published);
    assert!(!PosixStore::format(root.path(), FormatOptions::default()).await.unwrap());
    assert_eq!(
        publish(&store, namespace(1)).await,
        Publication::AlreadyExists,
        "formatting removed an object"
    );
    let mut v1 = names(&root.path().join("v1"));
    v1.retain(|name| name != "records");
    assert_eq!(v1, [namespace(1).to_string()], "temporary directories are left");
}

//= SEMANTICS.md#posix-fan-out
#[tokio::test]
async fn the_fan_out_is_made_when_it_is_known_and_whole_at_the_first_save() {
    let root = folder();
    PosixStore::format(root.path(), FormatOptions::default().namespace(namespace(1))).await.unwrap();
    for made in ["records/request".to_owned(), namespace(1).to_string()] {
        assert_eq!(names(&root.path().join("v1").join(&made)), all_two_digits(), "{made}");
    }
    let late = root.path().join("v1").join(namespace(2).to_string());
    assert!(!late.exists());
    let store = PosixStore::open(root.path(), plain()).await.unwrap();
    assert_eq!(publish(&store, namespace(2)).await, Publication::Published);
    assert_eq!(names(&late), all_two_digits());
    // A directory that somebody removed comes back.
    std::fs::remove_dir_all(&late).unwrap();
    std::fs::create_dir(&late).unwrap();
    std::fs::set_permissions(&late, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(publish(&store, namespace(2)).await, Publication::Published);
}

//= SEMANTICS.md#posix-format-empty
#[tokio::test]
async fn only_an_empty_directory_is_formatted() {
    for (stranger, formatted, opened) in [
        ("photos", false, false),
        ("lost+found", true, true),
        (".snapshot", true, true),
        // A store whose marker was deleted: whoever formats it knows that, and whoever opens it does not.
        ("v1", true, false),
        ("quarantine", true, false),
    ] {
        for explicit in [false, true] {
            let root = folder();
            let path = root.path().join(stranger);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            let (expected, answer) = if explicit {
                let answer = PosixStore::format(root.path(), FormatOptions::default()).await;
                (formatted, answer.map(drop))
            } else {
                (opened, PosixStore::open(root.path(), plain().format_if_empty(true)).await.map(drop))
            };
            match answer {
                Ok(()) => assert!(expected, "{stranger}: formatted beside it, explicitly: {explicit}"),
                Err(error) => {
                    assert!(!expected, "{stranger}, explicitly: {explicit}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                    assert!(error.to_string().contains(&format!("found {stranger:?}")), "{error}");
                    assert_eq!(names(root.path()), [stranger]);
                }
            }
        }
    }
}

//= SEMANTICS.md#posix-marker
#[tokio::test]
async fn a_marker_that_is_not_ours_to_read_is_refused() {
    let newer = r#"{"format":2,"shards":"by moon phase"}"#;
    let deeper = r#"{"format":1,"fan_out_depth":2,"modes":"private","created_by":"x"}"#;
    let other_modes = r#"{"format":1,"fan_out_depth":1,"modes":"public","created_by":"x"}"#;
    let long = format!("{newer}{}", " ".repeat(5000));
    let cases = [
        (newer, ErrorKind::Unsupported, "found 2"),
        (deeper, ErrorKind::Unsupported, "found 2"),
        (other_modes, ErrorKind::Backend, "unknown variant `public`"),
        ("", ErrorKind::Backend, "is damaged"),
        ("{\"format\":", ErrorKind::Backend, "is damaged"),
        ("{\"format\":1}", ErrorKind::Backend, "missing field"),
        ("\0\0\0\0", ErrorKind::Backend, "is damaged"),
        (&long, ErrorKind::Backend, "found 5037 bytes"),
    ];
    for (text, kind, words) in cases {
        let root = folder();
        std::fs::write(root.path().join(MARKER), text).unwrap();
        for error in [
            PosixStore::open(root.path(), plain()).await.map(drop).unwrap_err(),
            PosixStore::open(root.path(), plain().format_if_empty(true)).await.map(drop).unwrap_err(),
            PosixStore::format(root.path(), FormatOptions::default()).await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), kind, "{text:?}: {error}");
            for words in [words, MARKER] {
                assert!(error.to_string().contains(words), "{text:?}: {error}");
            }
        }
        assert_eq!(std::fs::read_to_string(root.path().join(MARKER)).unwrap(), text);
    }
}

//= SEMANTICS.md#posix-marker
#[tokio::test]
async fn the_marker_is_text_and_a_later_minor_version_may_add_to_it() {
    let root = folder();
    PosixStore::format(root.path(), FormatOptions::default()).await.unwrap();
    let text = std::fs::read_to_string(root.path().join(MARKER)).unwrap();
    let expected = concat!(
        r#"{"format":1,"fan_out_depth":1,"modes":"private","created_by":"kv-storage "#,
        env!("CARGO_PKG_VERSION"),
        "\"}\n"
    );
    assert_eq!(text, expected);
    std::fs::write(root.path().join(MARKER), text.replace('}', ",\"compression\":null}")).unwrap();
    PosixStore::open(root.path(), plain()).await.unwrap();
}

//= SEMANTICS.md#posix-marker-modes
#[tokio::test]
async fn the_modes_are_the_markers_and_others_are_refused() {
    for (made, other, mode) in [(Modes::Private, Modes::Group, 0o700), (Modes::Group, Modes::Private, 0o750)]
    {
        let root = folder();
        PosixStore::format(root.path(), FormatOptions::default().modes(made)).await.unwrap();
        for error in [
            PosixStore::open(root.path(), plain().modes(other)).await.map(drop).unwrap_err(),
            PosixStore::format(root.path(), FormatOptions::default().modes(other))
                .await
                .map(drop)
                .unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(&format!("modes {made}, expected {other}")), "{error}");
        }
        PosixStore::open(root.path(), plain().modes(made)).await.unwrap();
        let store = PosixStore::open(root.path(), plain()).await.unwrap();
        publish(&store, namespace(1)).await;
        let directory = root.path().join("v1").join(namespace(1).to_string());
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o7777, mode);
    }
}
