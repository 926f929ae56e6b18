//! The HTTP client beneath `object_store`: HTTP/1, one connection per request in flight, its own TLS, and no retries.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::credentials::Refreshing;
use super::observe::Observing;
use super::options::BodyChecksum;
use super::settings::Settings;
use crate::{Error, ErrorKind, Result};

/// An idle connection is asked whether its other end is still there: a server that went away without a word is noticed here, and a
/// balancer that forgets silent connections does not forget this one.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Idle connections are closed before servers and balancers close them, which they commonly do after a minute.
const IDLE: Duration = Duration::from_secs(20);

/// What clients are made of, one for each lane.
#[derive(Debug)]
pub(super) struct Clients {
    label: String,
    builder: AmazonS3Builder,
    pub(super) credentials: Arc<Refreshing>,
}

/// Makes clients as the settings want them.
#[derive(Debug, Clone)]
struct Connector {
    tls: ClientConfig,
    connect: Duration,
    idle_connections: usize,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .http1_only()
            .connect_timeout(self.connect)
            .pool_max_idle_per_host(self.idle_connections)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(KEEPALIVE)
            .tcp_nodelay(true)
            // S3 redirects to other regions, for which the signature is wrong: the error says where to.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(HttpClient::new(Observing(HttpClient::new(client))))
    }
}

impl Clients {
    /// Prepares clients.
    ///
    /// # Errors
    /// `Invalid` if certificates cannot be read.
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let options = &settings.options;
        let connector = Connector {
            tls: tls(settings)?,
            connect: options.deadlines.connect,
            idle_connections: options.concurrency.max(1),
        };
        let no_retries =
            RetryConfig { max_retries: 0, backoff: BackoffConfig::default(), retry_timeout: Duration::ZERO };
        let mut builder = settings.builder.clone();
        builder = builder
            .with_http_connector(connector)
            .with_retry(no_retries)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_unsigned_payload(options.unsigned_payload)
            .with_disable_bulk_delete(true)
            .with_disable_tagging(true);
        let credentials = Arc::new(Refreshing::new(options.credentials.clone(), builder.clone()));
        let provider = Arc::clone(&credentials);
        let builder = builder.with_credentials(provider);
        Ok(Self { label: settings.label.clone(), builder, credentials })
    }

    /// One client.
    ///
    /// # Errors
    /// `Invalid` if the settings contradict each other.
    pub(super) fn connect(&self, checksum: BodyChecksum) -> Result<Arc<dyn ObjectStore>> {
        let builder = match checksum {
            BodyChecksum::Crc64Nvme => self.builder.clone().with_checksum_algorithm(Checksum::CRC64NVME),
            BodyChecksum::None => self.builder.clone(),
        };
        match builder.build() {
            Ok(store) => Ok(Arc::new(store)),
            Err(error) => {
                let message = format!("the configuration does not fit together: {error}");
                Err(Error::new(ErrorKind::Invalid, &self.label, message).with_source(error))
            }
        }
    }
}

/// TLS by rustls and ring, with the system's certificates and those of `AWS_CA_BUNDLE`.
fn tls(settings: &Settings) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // Unreadable certificates of the system are missed when a server shows one that they would have signed.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &settings.certificates {
        let invalid = |error: String| {
            let path = path.display();
            let message = format!("AWS_CA_BUNDLE={path}: expected a file of PEM certificates, found {error}");
            Error::new(ErrorKind::Invalid, &settings.label, message)
        };
        let read = CertificateDer::pem_file_iter(path).map_err(|error| invalid(error.to_string()))?;
        for certificate in read {
            let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
            roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| {
        let message = format!("TLS cannot be set up: {error}");
        Error::new(ErrorKind::Backend, &settings.label, message).with_source(error)
    })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
