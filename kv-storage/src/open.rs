//! Opens a store from a URL.

use std::sync::Arc;

use crate::parts::one_thread_per_core;
use crate::{Error, ErrorKind, KvStore, MemoryStore, NullStore, Result};
#[cfg(feature = "posix")]
use crate::{GateOptions, HealthGate, PosixOptions, PosixStore};

/// Most threads of a store in memory that was opened by its URL.
const MEMORY_THREADS: usize = 4;

/// Opens the store that `url` names.
///
/// | URL | store |
/// |---|---|
/// | `memory://` | a new, empty [`MemoryStore`] with a thread for each core, up to 4 |
/// | `null://` | [`NullStore`] |
/// | `s3://bucket/prefix?key=value` | `S3Store` with its default options (feature `s3`); the keys stand at `S3Store::open` |
/// | `gs://bucket/prefix`, `az://container/prefix` | the same on Google's and Azure's servers (features `gcs` and `azure`): `S3Store::open_gcs`, `S3Store::open_azure` |
/// | `nixl+posix:///absolute/path` | as `file://`, and NIXL's plugin POSIX moves the bytes of objects (feature `nixl`) |
/// | `nixl+obj://bucket/prefix?key=value` | as `s3://`, and NIXL's plugin OBJ reads the objects (features `nixl` and `s3`), behind a gate as `file://` |
/// | `vast://cluster/directory` | [`Vast`](crate::Vast) over the paths that lead to the cluster, as the file says that the variable `KVBRIDGE_VAST` names (feature `vast`); paths that do not open are left out, `vast::Clusters::open` says which |
/// | `file:///absolute/path` | `PosixStore` with its default options in that directory, which [`format()`] has made a store (feature `posix`), behind a [`HealthGate`](crate::HealthGate) with its defaults; the path is taken as it stands, without percent escapes |
///
/// # Errors
/// `Invalid` for a URL that names no store: the message says what was expected; `Unavailable` for a directory that does not answer
/// within the gate's deadline; otherwise as the store's own `open`.
///
/// # Cancel safety
/// Cancel safe; a dropped call goes on probing the directory for a moment, and then removes its probe file.
pub async fn open(url: &str) -> Result<Arc<dyn KvStore>> {
    match parse(url)? {
        Place::Memory => Ok(Arc::new(MemoryStore::with_threads(one_thread_per_core(MEMORY_THREADS)))),
        Place::Null => Ok(Arc::new(NullStore)),
        Place::File(path) => open_file(url, path).await,
        Place::S3 => open_s3(url).await,
        Place::Gcs => open_gcs(url).await,
        Place::Azure => open_azure(url).await,
        Place::NixlPosix(path) => open_nixl_posix(url, path).await,
        Place::NixlObj => open_nixl_obj(url).await,
        Place::Vast => open_vast(url).await,
    }
}

/// Prepares the place that `url` names for a store, once, before it is opened; `false` if nothing was to be done.
///
/// A `file://` directory has to exist and to be empty; its files become private to the user who formats it. For a store that a group
/// shares, and for directories made ahead, see `PosixStore::format`. Memory and buckets need no preparation.
///
/// # Errors
/// As [`open`]; `Invalid` for a directory that is not empty, and no store.
///
/// # Cancel safety
/// A dropped call goes on formatting.
pub async fn format(url: &str) -> Result<bool> {
    match parse(url)? {
        Place::Memory | Place::Null | Place::S3 | Place::Gcs | Place::Azure | Place::NixlObj => Ok(false),
        Place::File(path) | Place::NixlPosix(path) => format_file(url, path).await,
        Place::Vast => format_vast(url).await,
    }
}

/// What a URL names.
enum Place<'a> {
    Memory,
    Null,
    S3,
    Gcs,
    Azure,
    Vast,
    File(&'a str),
    NixlPosix(&'a str),
    NixlObj,
}

/// What a URL may be.
const EXPECTED: &str = "expected memory://, null://, file:///absolute/path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, nixl+posix:///absolute/path, nixl+obj://bucket/prefix or vast://cluster/directory";

fn parse(url: &str) -> Result<Place<'_>> {
    let invalid = |expected: String| Err(Error::new(ErrorKind::Invalid, url, expected));
    let Some((scheme, rest)) = url.split_once("://") else {
        return invalid(format!("this is no store URL: {EXPECTED}"));
    };
    match (scheme, rest) {
        ("memory", "") => Ok(Place::Memory),
        ("null", "") => Ok(Place::Null),
        ("memory" | "null", _) => {
            invalid("nothing may follow the scheme: expected memory:// or null:// alone".into())
        }
        ("file" | "nixl+posix", "") => {
            invalid(format!("the path is missing: expected {scheme}:///absolute/path"))
        }
        ("file" | "nixl+posix", path) if !path.starts_with('/') => invalid(format!(
            "the path is relative or names a host: expected three slashes, {scheme}:///absolute/path"
        )),
        ("file", path) => Ok(Place::File(path)),
        ("nixl+posix", path) => Ok(Place::NixlPosix(path)),
        ("s3", _) => Ok(Place::S3),
        ("vast", _) => Ok(Place::Vast),
        ("gs", _) => Ok(Place::Gcs),
        ("az", _) => Ok(Place::Azure),
        ("nixl+obj", _) => Ok(Place::NixlObj),
        _ => invalid(format!("unknown scheme: {EXPECTED}")),
    }
}

#[cfg(feature = "posix")]
async fn open_file(url: &str, path: &str) -> Result<Arc<dyn KvStore>> {
    gated(url, PosixStore::open(path.as_ref(), PosixOptions::default()), GateOptions::default()).await
}

#[cfg(feature = "posix")]
async fn open_nixl_posix(url: &str, path: &str) -> Result<Arc<dyn KvStore>> {
    let options = PosixOptions::default().io(crate::posix::IoEngine::Nixl);
    gated(url, PosixStore::open(path.as_ref(), options), GateOptions::default()).await
}

/// Puts a gate before the store, which has to open within the gate's deadline: a dead server hangs whoever opens its mount, too.
#[cfg(feature = "posix")]
async fn gated(
    url: &str,
    opening: impl Future<Output = Result<impl KvStore>>,
    options: GateOptions,
) -> Result<Arc<dyn KvStore>> {
    let store = match options.deadline {
        None => opening.await?,
        Some(allowed) => tokio::select! {
            biased;
            store = opening => store?,
            () = options.environment.clock.sleep(allowed) => {
                let message = format!(
                    "it did not open within {allowed:?}: the mount hangs; see that its server is up, and try again"
                );
                return Err(Error::new(ErrorKind::Unavailable, url, message));
            }
        },
    };
    Ok(Arc::new(HealthGate::new(Arc::new(store), options)))
}

#[cfg(feature = "posix")]
async fn format_file(_: &str, path: &str) -> Result<bool> {
    PosixStore::format(path.as_ref(), crate::FormatOptions::default()).await
}

#[cfg(not(feature = "posix"))]
async fn open_file(url: &str, _: &str) -> Result<Arc<dyn KvStore>> {
    Err(without_posix(url))
}

#[cfg(not(feature = "posix"))]
async fn open_nixl_posix(url: &str, _: &str) -> Result<Arc<dyn KvStore>> {
    Err(without_posix(url))
}

#[cfg(not(feature = "posix"))]
async fn format_file(url: &str, _: &str) -> Result<bool> {
    Err(without_posix(url))
}

#[cfg(not(feature = "posix"))]
fn without_posix(url: &str) -> Error {
    let message = "kv-storage was built without the feature `posix`: enable it to open stores in directories";
    Error::new(ErrorKind::Unsupported, url, message)
}

/// A store on its way.
#[cfg(feature = "vast")]
type Opening = std::pin::Pin<Box<dyn Future<Output = Result<Arc<dyn KvStore>>> + Send>>;

/// Opens one path of a cluster, whose store has its own gate before each. Boxed, as a cluster's paths are opened by `open` in the end.
#[cfg(feature = "vast")]
pub(crate) fn path(url: String) -> Opening {
    Box::pin(async move {
        match parse(&url)? {
            #[cfg(feature = "posix")]
            Place::File(path) => {
                Ok(Arc::new(PosixStore::open(path.as_ref(), PosixOptions::default()).await?)
                    as Arc<dyn KvStore>)
            }
            #[cfg(feature = "posix")]
            Place::NixlPosix(path) => {
                let options = PosixOptions::default().io(crate::posix::IoEngine::Nixl);
                Ok(Arc::new(PosixStore::open(path.as_ref(), options).await?) as Arc<dyn KvStore>)
            }
            _ => open(&url).await,
        }
    })
}

#[cfg(feature = "vast")]
async fn open_vast(url: &str) -> Result<Arc<dyn KvStore>> {
    let clusters = crate::vast::Clusters::from_environment().await?;
    Ok(Arc::new(clusters.open(url, crate::VastOptions::default()).await?.store))
}

#[cfg(feature = "vast")]
async fn format_vast(url: &str) -> Result<bool> {
    crate::vast::Clusters::from_environment().await?.format(url).await
}

#[cfg(not(feature = "vast"))]
async fn open_vast(url: &str) -> Result<Arc<dyn KvStore>> {
    Err(without_vast(url))
}

#[cfg(not(feature = "vast"))]
async fn format_vast(url: &str) -> Result<bool> {
    Err(without_vast(url))
}

#[cfg(not(feature = "vast"))]
fn without_vast(url: &str) -> Error {
    let message = "kv-storage was built without the feature `vast`: enable it to open vast:// stores";
    Error::new(ErrorKind::Unsupported, url, message)
}

#[cfg(feature = "s3")]
async fn open_s3(url: &str) -> Result<Arc<dyn KvStore>> {
    let options = crate::S3Options::default();
    Ok(Arc::new(crate::S3Store::open(url, options).await?))
}

#[cfg(feature = "gcs")]
async fn open_gcs(url: &str) -> Result<Arc<dyn KvStore>> {
    Ok(Arc::new(crate::S3Store::open_gcs(url, crate::S3Options::default()).await?))
}

#[cfg(feature = "azure")]
async fn open_azure(url: &str) -> Result<Arc<dyn KvStore>> {
    Ok(Arc::new(crate::S3Store::open_azure(url, crate::S3Options::default()).await?))
}

#[cfg(not(feature = "s3"))]
async fn open_s3(url: &str) -> Result<Arc<dyn KvStore>> {
    without(url, "s3")
}

#[cfg(not(feature = "gcs"))]
async fn open_gcs(url: &str) -> Result<Arc<dyn KvStore>> {
    without(url, "gcs")
}

#[cfg(not(feature = "azure"))]
async fn open_azure(url: &str) -> Result<Arc<dyn KvStore>> {
    without(url, "azure")
}

#[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure")))]
fn without(url: &str, feature: &str) -> Result<Arc<dyn KvStore>> {
    let message =
        format!("kv-storage was built without the feature `{feature}`: enable it to open such stores");
    Err(Error::new(ErrorKind::Unsupported, url, message))
}

#[cfg(all(feature = "nixl", feature = "s3"))]
async fn open_nixl_obj(url: &str) -> Result<Arc<dyn KvStore>> {
    let (s3, nixl) = (crate::S3Options::default(), crate::NixlOptions::default());
    gated(url, crate::nixl::NixlObjStore::open(url, s3, nixl, None), GateOptions::default()).await
}

#[cfg(not(all(feature = "nixl", feature = "s3")))]
async fn open_nixl_obj(url: &str) -> Result<Arc<dyn KvStore>> {
    let message =
        "kv-storage was built without the features `nixl` and `s3`: enable both to open nixl+obj:// stores";
    Err(Error::new(ErrorKind::Unsupported, url, message))
}

#[cfg(feature = "posix")]
#[cfg(test)]
mod tests {
    use super::*;

    //= SEMANTICS.md#open-deadline
    #[tokio::test(start_paused = true)]
    async fn a_directory_that_hangs_does_not_open_within_the_deadline() {
        let never = std::future::pending::<Result<PosixStore>>();
        let error = gated("file:///hung", never, GateOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().starts_with("file:///hung: it did not open within 60s"), "{error}");
    }
}
