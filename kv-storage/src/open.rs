//! Opens a store from a URL.

use std::sync::Arc;

use crate::{Error, ErrorKind, KvStore, MemoryStore, NullStore, Result};

/// Opens the store that `url` names.
///
/// | URL | store |
/// |---|---|
/// | `memory://` | a new, empty [`MemoryStore`] |
/// | `null://` | [`NullStore`] |
/// | `s3://bucket/prefix?key=value` | `S3Store` with its default options (feature `s3`); the keys stand at `S3Store::open` |
/// | `file:///absolute/path` | `PosixStore` with its default options in that existing directory (feature `posix`); the path is taken as it stands, without percent escapes |
///
/// # Errors
/// `Invalid` for a URL that names no store: the message says what was expected; otherwise as the store's own `open`.
///
/// # Cancel safety
/// Cancel safe; a dropped call goes on probing the directory for a moment, and then removes its probe file.
pub async fn open(url: &str) -> Result<Arc<dyn KvStore>> {
    let invalid = |expected: &str| Err(Error::new(ErrorKind::Invalid, url, expected));
    let Some((scheme, rest)) = url.split_once("://") else {
        return invalid(
            "this is no store URL: expected memory://, null://, file:///absolute/path or s3://bucket/prefix",
        );
    };
    match (scheme, rest) {
        ("memory", "") => Ok(Arc::new(MemoryStore::new())),
        ("null", "") => Ok(Arc::new(NullStore)),
        ("memory" | "null", _) => {
            invalid("nothing may follow the scheme: expected memory:// or null:// alone")
        }
        ("file", "") => invalid("the path is missing: expected file:///absolute/path"),
        ("file", path) if !path.starts_with('/') => {
            invalid("the path is relative or names a host: expected three slashes, file:///absolute/path")
        }
        ("file", path) => open_file(url, path).await,
        ("s3", _) => open_s3(url).await,
        _ => invalid(
            "unknown scheme: expected memory://, null://, file:///absolute/path or s3://bucket/prefix",
        ),
    }
}

#[cfg(feature = "posix")]
async fn open_file(_: &str, path: &str) -> Result<Arc<dyn KvStore>> {
    let options = crate::PosixOptions::default();
    Ok(Arc::new(crate::PosixStore::open(path.as_ref(), options).await?))
}

#[cfg(not(feature = "posix"))]
async fn open_file(url: &str, _: &str) -> Result<Arc<dyn KvStore>> {
    let message = "kv-storage was built without the feature `posix`: enable it to open file:// stores";
    Err(Error::new(ErrorKind::Unsupported, url, message))
}

#[cfg(feature = "s3")]
async fn open_s3(url: &str) -> Result<Arc<dyn KvStore>> {
    let options = crate::S3Options::default();
    Ok(Arc::new(crate::S3Store::open(url, options).await?))
}

#[cfg(not(feature = "s3"))]
async fn open_s3(url: &str) -> Result<Arc<dyn KvStore>> {
    let message = "kv-storage was built without the feature `s3`: enable it to open s3:// stores";
    Err(Error::new(ErrorKind::Unsupported, url, message))
}
