//! What a URL, the environment and the options say together, checked before anything is connected.

use std::ffi::OsString;
use std::path::PathBuf;

use kv_memory::{HugePages, StagingPool};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use url::Url;

use super::options::{BodyChecksum, S3Options};
use super::staging_pool::PART_BYTES;
use crate::{Error, ErrorKind, Result};

/// Keys that a URL may have; `--help` of whoever takes URLs may show them.
const KEYS: &str = "endpoint, region, allow_http, virtual_hosted, anonymous, checksum, concurrency, threads, staging_mib, probe";

/// Words of S3's own variables that are credentials: they do not belong into a URL, which ends up in logs.
const SECRETS: [&str; 5] =
    ["access_key_id", "secret_access_key", "session_token", "aws_access_key_id", "aws_secret_access_key"];

/// A store as it was asked for.
#[derive(Debug)]
pub(super) struct Settings {
    /// `s3://bucket/prefix`, as it stands in messages.
    pub(super) label: String,
    pub(super) bucket: String,
    pub(super) prefix: Path,
    pub(super) endpoint: Option<String>,
    pub(super) builder: AmazonS3Builder,
    /// Certificates to believe beside the system's (`AWS_CA_BUNDLE`).
    pub(super) certificates: Option<PathBuf>,
    pub(super) options: S3Options,
}

/// What every URL of an object store has.
#[derive(Debug)]
pub(super) struct Location {
    pub(super) url: Url,
    /// `scheme://bucket/prefix`, as it stands in messages.
    pub(super) label: String,
    pub(super) bucket: String,
    pub(super) prefix: Path,
}

impl Location {
    /// Reads a URL of `scheme`.
    ///
    /// # Errors
    /// `Invalid`: the message says what was `expected`, and repeats nothing that may be secret.
    pub(super) fn read(url: &str, scheme: &str, expected: &str) -> Result<Self> {
        let parsed = Url::parse(url).map_err(|error| invalid(url, format!("{error}: {expected}")))?;
        let label = format!("{scheme}://{}{}", parsed.host_str().unwrap_or_default(), parsed.path());
        let label = label.trim_end_matches('/').to_owned();
        let wrong = |message: String| invalid(&label, message);
        let Some(bucket) = parsed.host_str().filter(|host| parsed.scheme() == scheme && !host.is_empty())
        else {
            return Err(wrong(format!("the bucket is missing: {expected}")));
        };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(wrong(secrets_in_the_environment("a user or password")));
        }
        if parsed.port().is_some() || parsed.fragment().is_some() {
            let message =
                format!("a port or fragment behind the bucket; the server is named by endpoint=: {expected}");
            return Err(wrong(message));
        }
        let bucket = bucket.to_owned();
        let prefix = Path::from_url_path(parsed.path())
            .map_err(|error| wrong(format!("the prefix cannot be used: {error}")))?;
        Ok(Self { url: parsed, label, bucket, prefix })
    }
}

fn flag(label: &str, key: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(invalid(label, format!("{key}={value}: expected true or false"))),
    }
}

/// Takes a key that every store of this kind has; `false` if it is another.
///
/// # Errors
/// `Invalid` for a value that makes no sense.
pub(super) fn common_key(label: &str, key: &str, value: &str, options: &mut S3Options) -> Result<bool> {
    let count = || match value.parse::<usize>() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(invalid(label, format!("{key}={value}: expected a positive number"))),
    };
    match key {
        "concurrency" => options.concurrency = count()?,
        "threads" => options.threads = count()?,
        "staging_mib" => options.staging = Some(pool_of(label, count()?)?),
        "probe" => options.probe = flag(label, key, value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

impl Settings {
    /// Reads a URL, and what is not in it from the process's environment.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(super) fn from_environment(url: &str, options: S3Options) -> Result<Self> {
        let text =
            |(key, value): (OsString, OsString)| Some((key.into_string().ok()?, value.into_string().ok()?));
        Self::new(url, options, std::env::vars_os().filter_map(text))
    }

    /// Reads a URL; `variables` is the environment.
    ///
    /// # Errors
    /// `Invalid` for whatever cannot be meant: the message names the key and what was expected.
    pub(super) fn new(
        url: &str,
        mut options: S3Options,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let expected = "expected s3://bucket/prefix?endpoint=https://host:port&region=name";
        let Location { url: parsed, label, bucket, prefix } = Location::read(url, "s3", expected)?;
        let wrong = |message: String| invalid(&label, message);
        let (mut builder, mut endpoint, mut certificates) = (AmazonS3Builder::new(), None, None);
        for (key, value) in variables {
            if key == "AWS_CA_BUNDLE" {
                certificates = Some(PathBuf::from(value));
            } else if let Some(known) = known_variable(&key) {
                if matches!(known, AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint) {
                    endpoint.get_or_insert_with(|| value.clone());
                }
                builder = builder.with_config(known, value);
            }
        }
        let mut allow_http = false;
        for (key, value) in parsed.query_pairs() {
            if common_key(&label, &key, &value, &mut options)? {
                continue;
            }
            let flag = || flag(&label, &key, &value);
            match &*key {
                "endpoint" => endpoint = Some(value.into_owned()),
                "region" => builder = builder.with_region(value),
                "allow_http" => allow_http = flag()?,
                "virtual_hosted" => builder = builder.with_virtual_hosted_style_request(flag()?),
                "anonymous" => builder = builder.with_skip_signature(flag()?),
                "checksum" => {
                    options.checksum = match &*value {
                        "crc64nvme" => BodyChecksum::Crc64Nvme,
                        "none" => BodyChecksum::None,
                        _ => return Err(wrong(format!("checksum={value}: expected crc64nvme or none"))),
                    }
                }
                secret if SECRETS.contains(&secret) => {
                    return Err(wrong(secrets_in_the_environment(secret)));
                }
                _ => return Err(wrong(format!("unknown key {key}: expected one of {KEYS}"))),
            }
        }
        if let Some(endpoint) = &endpoint {
            check_endpoint(&label, endpoint, allow_http)?;
            builder = builder.with_endpoint(endpoint);
        }
        builder = builder.with_bucket_name(&bucket);
        Ok(Self { label, bucket, prefix, endpoint, builder, certificates, options })
    }
}

/// What an `AWS_` variable means to `object_store`, if anything; others are somebody else's.
fn known_variable(key: &str) -> Option<AmazonS3ConfigKey> {
    if !key.starts_with("AWS_") {
        return None;
    }
    let known = key.to_ascii_lowercase().parse().ok()?;
    // The store decides these itself, or the URL does.
    let ours = matches!(
        known,
        AmazonS3ConfigKey::Bucket
            | AmazonS3ConfigKey::ConditionalPut
            | AmazonS3ConfigKey::CopyIfNotExists
            | AmazonS3ConfigKey::Checksum
            | AmazonS3ConfigKey::UnsignedPayload
            | AmazonS3ConfigKey::Client(_)
    );
    (!ours).then_some(known)
}

fn check_endpoint(label: &str, endpoint: &str, allow_http: bool) -> Result<()> {
    let parsed = Url::parse(endpoint).ok().filter(|url| url.has_host());
    match parsed.as_ref().map(Url::scheme) {
        Some("https") => Ok(()),
        Some("http") if allow_http => Ok(()),
        Some("http") => {
            let message = format!("endpoint {endpoint} is not encrypted: add allow_http=true, or use https");
            Err(invalid(label, message))
        }
        _ => Err(invalid(label, format!("endpoint {endpoint:?}: expected http://host:port or https://host"))),
    }
}

fn pool_of(label: &str, mib: usize) -> Result<StagingPool> {
    let bytes = mib.saturating_mul(1 << 20);
    HugePages::allocate(bytes)
        .and_then(|region| StagingPool::new(region, PART_BYTES.min(bytes)))
        .map_err(|error| invalid(label, format!("staging_mib={mib}: {error}")))
}

fn secrets_in_the_environment(what: &str) -> String {
    format!(
        "{what} in a URL: URLs end up in logs; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
    )
}

pub(super) fn invalid(label: impl std::fmt::Display, message: String) -> Error {
    Error::new(ErrorKind::Invalid, label, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str, variables: &[(&str, &str)]) -> Result<Settings> {
        let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Settings::new(url, S3Options::default(), variables)
    }

    #[test]
    fn the_url_goes_before_the_environment() {
        let variables = [
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL", "https://environment:1"),
            ("AWS_PROFILE", "not known to object_store"),
            ("AWS_CA_BUNDLE", "/ca.pem"),
            ("PATH", "/bin"),
        ];
        let from_environment = settings("s3://bucket/a/b/", &variables).unwrap();
        assert_eq!(from_environment.label, "s3://bucket/a/b");
        assert_eq!(from_environment.prefix.as_ref(), "a/b");
        assert_eq!(from_environment.endpoint.as_deref(), Some("https://environment:1"));
        assert_eq!(from_environment.certificates, Some(PathBuf::from("/ca.pem")));
        let region = AmazonS3ConfigKey::Region;
        assert_eq!(from_environment.builder.get_config_value(&region).as_deref(), Some("eu-west-1"));
        let url =
            "s3://bucket?region=us-west-2&endpoint=http://url:2&allow_http=true&checksum=none&threads=3";
        let from_url = settings(url, &variables).unwrap();
        assert_eq!(from_url.endpoint.as_deref(), Some("http://url:2"));
        assert_eq!(from_url.builder.get_config_value(&region).as_deref(), Some("us-west-2"));
        assert_eq!((from_url.options.checksum, from_url.options.threads), (BodyChecksum::None, 3));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_secrets_are_not_repeated() {
        for (url, expected) in [
            ("s3://", "the bucket is missing"),
            ("s3:///prefix", "the bucket is missing"),
            ("s3://bucket:80/x", "named by endpoint="),
            ("s3://key:topsecret@bucket", "set AWS_ACCESS_KEY_ID"),
            ("s3://bucket?secret_access_key=topsecret", "set AWS_ACCESS_KEY_ID"),
            ("s3://bucket?regoin=x", "unknown key regoin: expected one of endpoint, region"),
            ("s3://bucket?allow_http=yes", "expected true or false"),
            ("s3://bucket?threads=0", "expected a positive number"),
            ("s3://bucket?checksum=md5", "expected crc64nvme or none"),
            ("s3://bucket?endpoint=host:9000", "expected http://host:port"),
            ("s3://bucket?endpoint=http://host:9000", "add allow_http=true"),
        ] {
            let error = settings(url, &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            let text = error.to_string();
            assert!(text.contains(expected), "{url}: {text}");
            assert!(!text.contains("topsecret"), "{url}: {text}");
        }
    }
}
