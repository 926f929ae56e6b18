//! Opens a store from a URL.

use std::sync::Arc;

use crate::{Error, ErrorKind, KvStore, MemoryStore, NullStore, Result};

/// Opens the store that `url` names.
///
/// | URL | store |
/// |---|---|
/// | `memory://` | a new, empty [`MemoryStore`] |
/// | `null://` | [`NullStore`] |
/// | `file:///absolute/path` | `PosixStore` with its default options in that directory, which [`format()`] has made a store (feature `posix`); the path is taken as it stands, without percent escapes |
///
/// # Errors
/// `Invalid` for a URL that names no store: the message says what was expected; otherwise as the store's own `open`.
///
/// # Cancel safety
/// Cancel safe; a dropped call goes on probing the directory for a moment, and then removes its probe file.
pub async fn open(url: &str) -> Result<Arc<dyn KvStore>> {
    match parse(url)? {
        Place::Memory => Ok(Arc::new(MemoryStore::new())),
        Place::Null => Ok(Arc::new(NullStore)),
        Place::File(path) => open_file(url, path).await,
    }
}

/// Prepares the place that `url` names for a store, once, before it is opened; `false` if nothing was to be done.
///
/// A `file://` directory has to exist and to be empty; its files become private to the user who formats it. For a store that a group
/// shares, and for directories made ahead, see `PosixStore::format`. Memory needs no preparation.
///
/// # Errors
/// As [`open`]; `Invalid` for a directory that is not empty, and no store.
///
/// # Cancel safety
/// A dropped call goes on formatting.
pub async fn format(url: &str) -> Result<bool> {
    match parse(url)? {
        Place::Memory | Place::Null => Ok(false),
        Place::File(path) => format_file(url, path).await,
    }
}

/// What a URL names.
enum Place<'a> {
    Memory,
    Null,
    File(&'a str),
}

fn parse(url: &str) -> Result<Place<'_>> {
    let invalid = |expected: &str| Err(Error::new(ErrorKind::Invalid, url, expected));
    let Some((scheme, rest)) = url.split_once("://") else {
        return invalid("this is no store URL: expected memory://, null:// or file:///absolute/path");
    };
    match (scheme, rest) {
        ("memory", "") => Ok(Place::Memory),
        ("null", "") => Ok(Place::Null),
        ("memory" | "null", _) => {
            invalid("nothing may follow the scheme: expected memory:// or null:// alone")
        }
        ("file", "") => invalid("the path is missing: expected file:///absolute/path"),
        ("file", path) if !path.starts_with('/') => {
            invalid("the path is relative or names a host: expected three slashes, file:///absolute/path")
        }
        ("file", path) => Ok(Place::File(path)),
        _ => invalid("unknown scheme: expected memory://, null:// or file:///absolute/path"),
    }
}

#[cfg(feature = "posix")]
async fn open_file(_: &str, path: &str) -> Result<Arc<dyn KvStore>> {
    let options = crate::PosixOptions::default();
    Ok(Arc::new(crate::PosixStore::open(path.as_ref(), options).await?))
}

#[cfg(feature = "posix")]
async fn format_file(_: &str, path: &str) -> Result<bool> {
    crate::PosixStore::format(path.as_ref(), crate::FormatOptions::default()).await
}

#[cfg(not(feature = "posix"))]
async fn open_file(url: &str, _: &str) -> Result<Arc<dyn KvStore>> {
    Err(without_posix(url))
}

#[cfg(not(feature = "posix"))]
async fn format_file(url: &str, _: &str) -> Result<bool> {
    Err(without_posix(url))
}

#[cfg(not(feature = "posix"))]
fn without_posix(url: &str) -> Error {
    let message = "kv-storage was built without the feature `posix`: enable it to open file:// stores";
    Error::new(ErrorKind::Unsupported, url, message)
}
