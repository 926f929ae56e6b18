//! An S3 server in the tests' own process: s3s checks signatures and speaks the protocol, a map holds the objects, and a script of faults
//! stands between them and the wire.

pub(crate) mod backend;
pub(crate) mod script;
pub(crate) mod uploads;
pub(crate) mod usual;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kv_storage::s3::{Deadlines, Retries, S3Options, S3Store};
use object_store::StaticCredentialProvider;
use object_store::aws::AwsCredential;
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Result, s3_error};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use self::backend::{BUCKET, Backend};
use self::script::Script;

pub(crate) const ACCESS_KEY: &str = "kv-access";
pub(crate) const SECRET_KEY: &str = "kv-secret";

/// Keys that the server takes; `expired` are answered with `ExpiredToken`.
#[derive(Debug, Clone, Default)]
struct Keys {
    expired: Arc<Mutex<Vec<String>>>,
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if self.expired.lock().unwrap().iter().any(|expired| expired == access_key) {
            return Err(s3_error!(ExpiredToken, "The provided token has expired."));
        }
        if access_key.starts_with(ACCESS_KEY) {
            return Ok(SecretKey::from(SECRET_KEY));
        }
        Err(s3_error!(InvalidAccessKeyId, "The access key does not exist."))
    }
}

/// Answers the requests of one connection.
async fn serve<C>(stream: C, service: S3Service, script: Script)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| {
        let (service, script) = (service.clone(), script.clone());
        async move { script.answer(&service, request).await }
    });
    // Connections end as their clients like.
    let _ = hyper::server::conn::http1::Builder::new()
        .max_buf_size(1 << 20)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

/// A running server. Dropped, it ends.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) backend: Backend,
    pub(crate) script: Script,
    keys: Keys,
    connections: Arc<AtomicUsize>,
    scheme: &'static str,
    _end: oneshot::Sender<()>,
}

impl Server {
    /// Starts on a free port, on threads of its own.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// The same behind TLS.
    pub(crate) fn start_with_tls(config: rustls::ServerConfig) -> Self {
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let (backend, script, keys) = (Backend::default(), Script::default(), Keys::default());
        let mut builder = S3ServiceBuilder::new(backend.clone());
        builder.set_auth(keys.clone());
        let service = builder.build();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let (accepting, connections) = (script.clone(), Arc::<AtomicUsize>::default());
        let (scheme, count) = (if tls.is_some() { "https" } else { "http" }, Arc::clone(&connections));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                stream.set_nodelay(true).unwrap();
                let (service, script, tls) = (service.clone(), accepting.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, service, script).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, service, script).await;
                            }
                        }
                    }
                });
            }
        });
        std::thread::spawn(move || {
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        });
        Self { address, backend, script, keys, connections, scheme, _end: end }
    }

    /// Connections that were opened so far, with or without a handshake.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Where a store finds it.
    pub(crate) fn url(&self) -> String {
        format!("s3://{BUCKET}/some/prefix?endpoint={}://{}&allow_http=true", self.scheme, self.address)
    }

    /// Opens a store with the right keys.
    pub(crate) async fn open(&self, options: S3Options) -> kv_storage::Result<S3Store> {
        S3Store::open(&self.url(), options).await
    }

    /// Answers requests of this key with `ExpiredToken` from now on.
    pub(crate) fn expire(&self, access_key: &str) {
        self.keys.expired.lock().unwrap().push(access_key.to_owned());
    }

    /// The keys under `v1/`, without the prefix.
    pub(crate) fn keys(&self) -> Vec<String> {
        let objects = self.backend.objects.lock().unwrap();
        objects.keys().filter_map(|key| key.strip_prefix("some/prefix/").map(str::to_owned)).collect()
    }
}

/// Credentials that the server takes.
pub(crate) fn credentials(
    access_key: &str,
    secret_key: &str,
) -> Arc<StaticCredentialProvider<AwsCredential>> {
    Arc::new(StaticCredentialProvider::new(AwsCredential {
        key_id: access_key.to_owned(),
        secret_key: secret_key.to_owned(),
        token: None,
    }))
}

/// Options with the right keys, and pauses that nobody has to wait for.
pub(crate) fn options() -> S3Options {
    let millis = std::time::Duration::from_millis;
    let retries = Retries { base: millis(1), cap: millis(5), ..Retries::default() };
    S3Options::default()
        .credentials(credentials(ACCESS_KEY, SECRET_KEY))
        .retries(retries)
        .deadlines(Deadlines::default())
        .threads(2)
}
