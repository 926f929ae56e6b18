//! What is said where NIXL is not, or not as it should be.

use std::error::Error as _;
use std::path::Path;

use kv_storage::nixl::{Missing, NixlObjStore};
use kv_storage::{Error, ErrorKind, NixlOptions};

use crate::libraries::{built, fake, faulty, open, shared_memory};
use crate::s3_server::{Server, options};

fn missing(error: &Error) -> &Missing {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    error.source().and_then(|source| source.downcast_ref()).unwrap_or_else(|| panic!("untyped: {error}"))
}

async fn refused(nixl: &NixlOptions) -> Error {
    let root = shared_memory();
    let error = open(root.path(), nixl).await.unwrap_err();
    // Nothing is left of the attempt, and the store opens without NIXL.
    kv_storage::open(&format!("file://{}", root.path().display())).await.unwrap();
    error
}

//= SEMANTICS.md#nixl-missing
#[tokio::test]
async fn a_missing_library_is_told_with_every_path_that_was_tried() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("libnixl_capi.so"), "not a library").unwrap();
    let garbled = folder.path().join("libnixl_capi.so");
    let empty = tempfile::tempdir().unwrap();
    for (named, tried, reason) in [
        (Path::new("/nowhere/libnixl_capi.so"), Path::new("/nowhere/libnixl_capi.so"), "No such file"),
        (empty.path(), empty.path(), "no libnixl_capi.so, and no wheel of NIXL"),
        (folder.path(), &garbled, "file too short"),
    ] {
        let error = refused(&NixlOptions::default().library(named)).await;
        let Missing::Library { tried: attempts } = missing(&error) else { panic!("{error}") };
        assert_eq!((attempts.len(), attempts[0].path.as_path()), (1, tried), "{error}");
        let text = error.to_string();
        assert!(text.contains(tried.to_str().unwrap()) && text.contains(reason), "{text}");
        assert!(text.contains("KVBRIDGE_NIXL") && text.contains("ask for threads"), "{text}");
    }
}

//= SEMANTICS.md#nixl-missing
#[tokio::test]
async fn another_library_an_old_one_and_a_plugin_that_does_not_start_are_told_apart() {
    let error = refused(&NixlOptions::default().library("libc.so.6")).await;
    let Missing::Symbol { symbol, .. } = missing(&error) else { panic!("{error}") };
    assert_eq!(symbol, "nixl_capi_create_configured_agent");

    let old = built("fake_nixl_old");
    let error = refused(&NixlOptions::default().library(&old)).await;
    assert_eq!(*missing(&error), Missing::TooOld { library: old }, "{error}");
    assert!(error.to_string().contains("is older than 1.5.0"), "{error}");

    let error = refused(&fake().parameter("fake", "refuse")).await;
    let Missing::Plugin { plugin, call, status, .. } = missing(&error) else { panic!("{error}") };
    assert_eq!((plugin.as_str(), *call, *status), ("POSIX", "nixl_capi_create_backend", -2));
}

//= SEMANTICS.md#nixl-missing
#[tokio::test]
async fn a_bucket_is_not_opened_without_it_either() {
    let server = Server::start();
    let url = server.url().replace("s3://", "nixl+obj://");
    for (nixl, expected) in [
        (NixlOptions::default().library("/nowhere"), "No such file"),
        (NixlOptions::default().library(built("fake_nixl_old")), "older than 1.5.0"),
        (fake().parameter("fake", "refuse"), "the plugin OBJ"),
    ] {
        let error = NixlObjStore::open(&url, options(), nixl, None).await.unwrap_err();
        drop(missing(&error).clone());
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().starts_with("nixl+obj://kv-bucket"), "{error}");
    }
    for key in ["virtual_hosted", "anonymous"] {
        let error =
            NixlObjStore::open(&format!("{url}&{key}=true"), options(), fake(), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(&format!("{key}=true")), "{error}");
    }
}

/// What the bug of 1.3 and 1.4 would do to whoever believed it: it is seen before any object is there.
//= SEMANTICS.md#nixl-hint
#[tokio::test]
async fn a_library_that_does_not_move_what_it_says_is_refused_at_open() {
    for mode in ["short", "nothing", "fail", "fail-post", "fail-create"] {
        let switch = tempfile::NamedTempFile::new().unwrap();
        let error = refused(&faulty(mode, switch.path())).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{mode}: {error}");
        assert!(
            error.to_string().contains("did not write and read a file that plain calls"),
            "{mode}: {error}"
        );
    }
}
