//! Buckets of Google and containers of Azure, through `object_store`'s clients for them with this store's connections.
//!
//! What their servers do could not be tried where this was written: the adapter and its conditions are tested over other
//! `ObjectStore`s, and the probe at open finds out the rest. Uploads are never sent in parts.

use std::sync::Arc;

use object_store::ObjectStore;

use super::S3Store;
use super::client::{Connector, no_retries};
use super::core::Core;
use super::lanes::{Client, Lanes};
use super::options::S3Options;
use super::settings::{Location, common_key, invalid};
use crate::{Error, ErrorKind, Result};

impl S3Store {
    /// Opens `gs://bucket/prefix?key=value&...` with the keys `concurrency`, `threads`, `staging_mib` and `probe` of
    /// [`open`](Self::open). Credentials come from the `GOOGLE_*` variables that `object_store` knows (`GOOGLE_APPLICATION_CREDENTIALS`,
    /// `GOOGLE_SERVICE_ACCOUNT`), or the machine's role.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    #[cfg(feature = "gcs")]
    pub async fn open_gcs(url: &str, options: S3Options) -> Result<Self> {
        let expected = "expected gs://bucket/prefix";
        let (place, options) = read(url, "gs", expected, options)?;
        let bucket = place.bucket.clone();
        let connect = move |connector| {
            let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env().with_bucket_name(&bucket);
            let store = builder.with_http_connector(connector).with_retry(no_retries()).build()?;
            Ok(Arc::new(store) as Arc<dyn ObjectStore>)
        };
        Self::open_cloud(place, options, connect).await
    }

    /// Opens `az://container/prefix?key=value&...` with the keys `concurrency`, `threads`, `staging_mib` and `probe` of
    /// [`open`](Self::open). The account and its credentials come
    /// from the `AZURE_*` variables that `object_store` knows (`AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`,
    /// `AZURE_STORAGE_SAS_KEY`, those of service principals and of workload identities), or the machine's role.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    #[cfg(feature = "azure")]
    pub async fn open_azure(url: &str, options: S3Options) -> Result<Self> {
        let expected = "expected az://container/prefix, and the account in AZURE_STORAGE_ACCOUNT_NAME";
        let (place, options) = read(url, "az", expected, options)?;
        let container = place.bucket.clone();
        let connect = move |connector| {
            let builder =
                object_store::azure::MicrosoftAzureBuilder::from_env().with_container_name(&container);
            let store = builder.with_http_connector(connector).with_retry(no_retries()).build()?;
            Ok(Arc::new(store) as Arc<dyn ObjectStore>)
        };
        Self::open_cloud(place, options, connect).await
    }

    /// `connect` makes one lane's client.
    async fn open_cloud(
        place: Location,
        options: S3Options,
        connect: impl Fn(Connector) -> object_store::Result<Arc<dyn ObjectStore>> + Send + 'static,
    ) -> Result<Self> {
        let Location { label, bucket, prefix, .. } = place;
        let (asked, probe) = (format!("open {bucket}"), options.probe);
        let prepare = move |label: &str| {
            let connector = Connector::new(label, None, &options)?;
            let lanes = Lanes::start(label, options.threads, || {
                let store = connect(connector.clone()).map_err(|error| {
                    let message = format!("the environment's variables do not make a client: {error}");
                    Error::new(ErrorKind::Invalid, label, message).with_source(error)
                })?;
                Ok(Client { store, parts: None })
            })?;
            Ok(Core::new(label.to_owned(), prefix, lanes, &options, None, false))
        };
        Self::probed(Self::prepared(label, prepare).await?, probe, asked).await
    }
}

/// What a URL says.
fn read(url: &str, scheme: &str, expected: &str, mut options: S3Options) -> Result<(Location, S3Options)> {
    let place = Location::read(url, scheme, expected)?;
    if options.credentials.is_some() {
        let message =
            "S3Options::credentials are those of AWS: leave them out, and set the variables of this cloud";
        return Err(invalid(&place.label, message.to_owned()));
    }
    for (key, value) in place.url.query_pairs() {
        if !common_key(&place.label, &key, &value, &mut options)? {
            let message = format!(
                "unknown key {key}: expected one of concurrency, threads, staging_mib, probe; {expected}"
            );
            return Err(invalid(&place.label, message));
        }
    }
    Ok((place, options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (url, expected) in [
            ("gs://", "the bucket is missing: expected gs://bucket/prefix"),
            ("s3://bucket", "expected gs://bucket/prefix"),
            ("gs://bucket?endpoint=https://host", "unknown key endpoint"),
            ("gs://bucket?threads=0", "expected a positive number"),
            ("gs://user:topsecret@bucket", "a user or password in a URL"),
        ] {
            let error = read(url, "gs", "expected gs://bucket/prefix", S3Options::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(expected), "{url}: {error}");
            assert!(!error.to_string().contains("topsecret"), "{error}");
        }
        let url = "gs://bucket/a/b?threads=3&probe=false";
        let (place, options) = read(url, "gs", "", S3Options::default()).unwrap();
        assert_eq!((place.label.as_str(), place.prefix.as_ref()), ("gs://bucket/a/b", "a/b"));
        assert_eq!((options.threads, options.probe), (3, false));
    }
}
