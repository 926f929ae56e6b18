//! The HTTP client beneath `object_store`: HTTP/1, one connection per request in flight, its own TLS, and no retries.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::client::{HttpClient, HttpConnector};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::credentials::Refreshing;
use super::lanes::Client;
use super::observe::Observing;
use super::options::{BodyChecksum, S3Options};
use super::settings::Settings;
use super::straight::Straight;
use crate::env::Clock;
use crate::{Error, ErrorKind, Result};

/// An idle connection is asked whether its other end is still there: a server that went away without a word is noticed here, and a
/// balancer that forgets silent connections does not forget this one.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Idle connections are closed before servers and balancers close them, which they commonly do after a minute.
const IDLE: Duration = Duration::from_secs(20);
/// Variables with the proxies of plain HTTP.
const PROXIES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

/// What clients are made of, one for each lane.
#[derive(Debug)]
pub(super) struct Clients {
    label: String,
    builder: AmazonS3Builder,
    connector: Connector,
    pub(super) credentials: Arc<Refreshing>,
}

/// What uploads in parts need beyond an `ObjectStore`.
#[derive(Debug, Clone)]
pub(super) struct PartsClient {
    pub(super) s3: Arc<AmazonS3>,
    /// The same connections, for what `object_store` has no call for.
    pub(super) http: HttpClient,
}

/// Connections that exist already.
#[derive(Debug)]
struct Connected(HttpClient);

impl HttpConnector for Connected {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

/// Makes clients as the settings want them.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    tls: ClientConfig,
    connect: Duration,
    /// A server that takes no more of a body for so long has gone: without this the connection would hold the body, and with it the
    /// staging, as long as the server holds the connection, whether or not somebody still waits for an answer.
    stalled: Duration,
    idle_connections: usize,
    /// Whether the process's environment names a proxy for plain HTTP, which is the usual client's business.
    proxied: bool,
    clock: Arc<dyn Clock>,
}

impl Connector {
    /// With the system's certificates and those of a file.
    ///
    /// # Errors
    /// `Invalid` if certificates cannot be read.
    pub(super) fn new(label: &str, certificates: Option<&FilePath>, options: &S3Options) -> Result<Self> {
        Ok(Self {
            tls: tls(label, certificates)?,
            connect: options.deadlines.connect,
            stalled: options.deadlines.first_byte,
            idle_connections: options.concurrency.max(1),
            proxied: PROXIES.iter().any(|name| std::env::var_os(name).is_some_and(|url| !url.is_empty())),
            clock: Arc::clone(&options.environment.clock),
        })
    }

    /// Connections for bodies that are read past the usual client.
    fn straight(&self) -> Arc<Straight> {
        let mut connector = hyper_util::client::legacy::connect::HttpConnector::new();
        connector.set_connect_timeout(Some(self.connect));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_nodelay(true);
        Straight::new(connector, Arc::clone(&self.clock), IDLE, self.idle_connections)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let builder = reqwest::Client::builder();
        #[cfg(target_os = "linux")]
        let builder = builder.tcp_user_timeout(self.stalled);
        let client = builder
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
        let straight = (!self.proxied).then(|| self.straight());
        Ok(HttpClient::new(Observing { client: HttpClient::new(client), straight }))
    }
}

impl Clients {
    /// Prepares clients.
    ///
    /// # Errors
    /// `Invalid` if certificates cannot be read.
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let options = &settings.options;
        let connector = Connector::new(&settings.label, settings.certificates.as_deref(), options)?;
        let mut builder = settings.builder.clone();
        builder = builder
            .with_http_connector(connector.clone())
            .with_retry(no_retries())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_unsigned_payload(options.unsigned_payload)
            .with_disable_bulk_delete(true)
            .with_disable_tagging(true);
        let credentials = Arc::new(Refreshing::new(options.credentials.clone(), builder.clone()));
        let provider = Arc::clone(&credentials);
        let builder = builder.with_credentials(provider);
        Ok(Self { label: settings.label.clone(), builder, connector, credentials })
    }

    /// One client.
    ///
    /// # Errors
    /// `Invalid` if the settings contradict each other.
    pub(super) fn connect(&self, checksum: BodyChecksum) -> Result<Client> {
        let unfit = |error: object_store::Error| {
            let message = format!("the configuration does not fit together: {error}");
            Error::new(ErrorKind::Invalid, &self.label, message).with_source(error)
        };
        let http = self.connector.connect(&ClientOptions::default()).map_err(unfit)?;
        let mut builder = self.builder.clone().with_http_connector(Connected(http.clone()));
        if checksum == BodyChecksum::Crc64Nvme {
            builder = builder.with_checksum_algorithm(Checksum::CRC64NVME);
        }
        let s3 = Arc::new(builder.build().map_err(unfit)?);
        Ok(Client { store: Arc::<AmazonS3>::clone(&s3), parts: Some(PartsClient { s3, http }) })
    }
}

/// Retries are the store's own.
pub(super) fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, backoff: BackoffConfig::default(), retry_timeout: Duration::ZERO }
}

/// TLS by rustls and ring, with the system's certificates and those of `AWS_CA_BUNDLE`.
fn tls(label: &str, certificates: Option<&FilePath>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // Unreadable certificates of the system are missed when a server shows one that they would have signed.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = certificates {
        let invalid = |error: String| {
            let path = path.display();
            let message = format!("AWS_CA_BUNDLE={path}: expected a file of PEM certificates, found {error}");
            Error::new(ErrorKind::Invalid, label, message)
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
        Error::new(ErrorKind::Backend, label, message).with_source(error)
    })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
