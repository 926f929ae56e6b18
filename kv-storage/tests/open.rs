//! Stores from URLs: what opens, and what the errors say.

use kv_storage::{ErrorKind, format, open};

//= SEMANTICS.md#posix-probe
#[tokio::test]
async fn urls_that_name_a_store_open_it() {
    let root = tempfile::tempdir().unwrap();
    let file = format!("file://{}", root.path().display());
    for (url, formatted, display) in [
        ("memory://", false, "memory".to_owned()),
        ("null://", false, "null".to_owned()),
        (&file, true, format!("posix:{}", root.path().display())),
    ] {
        assert_eq!(format(url).await.unwrap(), formatted, "{url}");
        let store = open(url).await.unwrap();
        assert_eq!(store.to_string(), display, "{url}");
        assert!(!format(url).await.unwrap(), "{url} was formatted twice");
    }
    let mut left: Vec<_> = root.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["kvbridge-store", "v1"], "the probe left files behind");
}

#[tokio::test]
async fn urls_that_name_none_say_what_was_expected() {
    let root = tempfile::tempdir().unwrap();
    let a_file = root.path().join("a-file");
    std::fs::write(&a_file, "").unwrap();
    let missing = format!("file://{}/missing", root.path().display());
    let a_file = format!("file://{}", a_file.display());
    for (url, expected) in [
        ("", "expected memory://"),
        ("/plain/path", "expected memory://"),
        ("memory:", "expected memory://"),
        ("memory://name", "expected memory:// or null:// alone"),
        ("null:///", "expected memory:// or null:// alone"),
        ("file://", "the path is missing: expected file:///absolute/path"),
        ("file://relative/path", "expected three slashes"),
        ("s4://bucket", "unknown scheme: expected"),
        (&missing, "no such directory: expected the existing root"),
        (&a_file, "not a directory: expected the root"),
    ] {
        for error in [open(url).await.map(drop).unwrap_err(), format(url).await.map(drop).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}: {error}");
            let text = error.to_string();
            assert!(text.contains(expected), "{url}: {text}");
            assert!(text.contains(url.trim_start_matches("file://")), "{url}: {text}");
            assert!(!text.contains('\n'), "more than one sentence: {text}");
        }
    }
}
