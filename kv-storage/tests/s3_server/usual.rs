//! `object_store`'s own client of the server, at its best settings.

use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{ClientOptions, RetryConfig};
use rustls::{ClientConfig, RootCertStore};

use super::backend::BUCKET;
use super::{ACCESS_KEY, SECRET_KEY, Server};

/// Connections without TLS roots: the server has none.
#[derive(Debug)]
struct Plain;

impl HttpConnector for Plain {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .tcp_nodelay(true)
            .pool_max_idle_per_host(64)
            .build();
        Ok(HttpClient::new(client.unwrap()))
    }
}

impl Server {
    /// A client that knows nothing of this project.
    pub(crate) fn usual_client(&self, retries: RetryConfig) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(format!("http://{}", self.address))
            .with_bucket_name(BUCKET)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_unsigned_payload(true)
            .with_http_connector(Plain)
            .with_retry(retries)
            .with_disable_bulk_delete(true) // which the server does not know
            .build()
            .unwrap()
    }
}
