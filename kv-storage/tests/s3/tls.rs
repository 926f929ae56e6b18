//! Certificates: one that nobody vouches for ends the handshake, and is believed if its file is named.

use std::process::Command;

use kv_storage::s3::S3Store;
use kv_storage::{ErrorKind, Publication};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

use crate::s3_server::{Server, options};
use crate::scene::{bytes, name, publish};

const URL: &str = "KV_TLS_URL";

/// A server whose certificate is signed by itself, and that certificate as PEM.
fn server() -> (Server, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = rustls::crypto::ring::default_provider();
    let config = ServerConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
    let config = config.unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    (Server::start_with_tls(config), made.cert.pem())
}

/// Row 43.
//= SEMANTICS.md#s3-unreachable
#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_certificate_is_told_at_once_and_says_what_to_do() {
    let (server, _) = server();
    let error = S3Store::open(&server.url(), options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let message = error.to_string();
    assert!(message.contains("invalid peer certificate: UnknownIssuer"), "{message}");
    assert!(message.contains("the certificates (AWS_CA_BUNDLE)"), "{message}");
    assert_eq!(server.connections(), 1, "one handshake, and no other");
}

/// The same handshake with the certificate's file named: an environment is a process's, so it is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_whose_file_is_named_is_believed() {
    let (server, pem) = server();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.pem");
    std::fs::write(&file, pem).unwrap();
    let mut client = Command::new(std::env::current_exe().unwrap());
    client.args(["--exact", "tls::publishes_over_tls", "--ignored", "--nocapture"]);
    client.env("AWS_CA_BUNDLE", file).env(URL, server.url());
    let status = tokio::task::spawn_blocking(move || client.status().unwrap()).await.unwrap();
    assert!(status.success(), "the client failed");
    assert!(server.keys().iter().any(|key| key.starts_with("v1/")), "{:?}", server.keys());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of `a_certificate_whose_file_is_named_is_believed`"]
async fn publishes_over_tls() {
    let store = S3Store::open(&std::env::var(URL).unwrap(), options()).await.unwrap();
    assert_eq!(publish(&store, &name(1), &bytes(1)).await.unwrap(), Publication::Published);
}
