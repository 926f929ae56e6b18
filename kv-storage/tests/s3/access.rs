//! Credentials, names and connections that are wrong: typed, at once, and in words that help.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::Method;
use kv_storage::s3::{S3Options, S3Store};
use kv_storage::{ErrorKind, KvStore, Publication};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use crate::s3_server::script::Fault;
use crate::s3_server::{ACCESS_KEY, SECRET_KEY, Server, credentials, options};
use crate::scene::{bytes, name, publish};

/// Gives out a new key each time that it is asked.
#[derive(Debug, Default)]
struct Rotating {
    key: AtomicUsize,
}

#[async_trait::async_trait]
impl CredentialProvider for Rotating {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let key_id = format!("{ACCESS_KEY}-{}", self.key.load(Ordering::Relaxed));
        Ok(Arc::new(AwsCredential { key_id, secret_key: SECRET_KEY.to_owned(), token: None }))
    }
}

/// Row 42.
//= SEMANTICS.md#s3-expired
#[tokio::test]
async fn expired_credentials_are_fetched_again_once_and_then_denied() {
    let server = Server::start();
    let rotating = Arc::new(Rotating::default());
    let provider = Arc::<Rotating>::clone(&rotating);
    let store = server.open(options().credentials(provider)).await.unwrap();
    server.expire(&format!("{ACCESS_KEY}-0"));
    server.script.clear();
    let error = publish(&store, &name(1), &bytes(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("have expired: renew them"), "{error}");
    assert_eq!(server.script.count(&Method::PUT), 2, "once more, and no more");
    rotating.key.store(1, Ordering::Relaxed);
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
    // Renewed between the two attempts of one call: the call succeeds.
    server.script.inject(Method::PUT, 1, Fault::Answer(400, "ExpiredToken"));
    assert_eq!(publish(&store, &name(2), &bytes(2)).await.unwrap(), Publication::Published);
}

//= SEMANTICS.md#s3-denied
#[tokio::test]
async fn a_wrong_secret_or_key_is_denied_at_open() {
    let server = Server::start();
    for (key, secret, expected) in [
        (ACCESS_KEY, "wrong", "the secret key is not the one of this access key"),
        ("nobody", SECRET_KEY, "the server does not know this access key"),
    ] {
        let error = server.open(options().credentials(credentials(key, secret))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains(secret) || secret == SECRET_KEY, "{error}");
    }
    let store = server.open(options()).await.unwrap();
    server.script.inject(Method::HEAD, 1, Fault::Answer(403, "AccessDenied"));
    let error = store.head(&name(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "a look that is denied is no miss: {error}");
}

/// Row 43.
//= SEMANTICS.md#s3-unreachable
#[tokio::test]
async fn tls_and_name_resolution_failures_are_told_at_once() {
    let server = Server::start();
    let tls = format!("s3://kv-bucket?endpoint=https://{}", server.address);
    let name = "s3://kv-bucket?endpoint=https://no-such-host.invalid".to_owned();
    for url in [tls, name] {
        let error = S3Store::open(&url, options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("check the endpoint, its scheme"), "{error}");
    }
    // Nobody listens: tried again, as a server may be starting, and then told.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("s3://kv-bucket?endpoint=http://{closed}&allow_http=true");
    let error = S3Store::open(&url, options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

//= SEMANTICS.md#s3-misdirected
#[tokio::test]
async fn a_wrong_bucket_or_region_is_a_mistake_of_the_caller_and_never_a_miss() {
    let server = Server::start();
    let other = server.url().replace("kv-bucket", "other-bucket");
    let error = S3Store::open(&other, options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("check the bucket's name"), "{error}");
    let store = server.open(options()).await.unwrap();
    server.script.inject(Method::GET, 1, Fault::Answer(404, "NoSuchBucket"));
    let record = kv_format::RecordName::request("id", 0);
    let error = store.read_record(&record).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    server.script.inject(Method::PUT, 1, Fault::Answer(301, "PermanentRedirect"));
    let error = publish(&store, &name(1), &bytes(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

//= SEMANTICS.md#s3-settings
#[tokio::test]
async fn urls_are_checked_before_anything_is_connected() {
    for (url, expected) in [
        ("s3://bucket?regoin=x", "unknown key regoin"),
        ("s3://bucket?endpoint=http://host", "allow_http=true"),
        ("s3://a:b@bucket", "AWS_ACCESS_KEY_ID"),
    ] {
        let error = kv_storage::open(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
        assert!(error.to_string().contains(expected), "{url}: {error}");
    }
    let error =
        S3Store::over(Arc::new(object_store::memory::InMemory::new()), "x", "a//b", S3Options::default())
            .await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
}

//= SEMANTICS.md#s3-full
#[tokio::test]
async fn a_quota_is_no_space() {
    let server = Server::start();
    let store = server.open(options()).await.unwrap();
    for (status, code) in [(403, "QuotaExceeded"), (507, "InsufficientStorage")] {
        server.script.inject(Method::PUT, 1, Fault::Answer(status, code));
        let error = publish(&store, &name(1), &bytes(1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    }
}
