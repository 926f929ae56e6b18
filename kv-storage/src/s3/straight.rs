//! Bodies read straight from their connections into the buffers that they are for.
//!
//! What an HTTP client reads it reads into memory of its own, out of which it has to be copied. Here hyper writes the request and reads the
//! head of the answer, and then lets go of the connection: the rest of the body is read by whoever has the buffer, and the connection
//! waits for the next request. That is so without TLS, whose records need memory of their own anyway, and without a proxy, and if the head
//! says how long the body is; all other requests and answers go the usual way. Nothing is tried twice: retries are the store's.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Builder, Parts};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, RANGE, TRANSFER_ENCODING,
};
use hyper::rt::{Read, ReadBuf};
use hyper::{Uri, Version};
use hyper_util::client::legacy::connect::HttpConnector;
use object_store::GetResult;
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody};
use tower_service::Service;

use crate::env::Clock;

/// Most bytes of an answer's head, which are also the most of a body that are copied: S3 allows 2 KiB of metadata.
const HEAD_BYTES: usize = 64 << 10;

tokio::task_local! {
    /// Set for requests whose body may be handed over.
    static WANTED: ();
}

/// Lets the answer to `attempt` hand its body over: [`handed_over`].
pub(super) async fn straight<T>(attempt: impl Future<Output = T>) -> T {
    WANTED.scope((), attempt).await
}

/// A connection as it is made.
type Io = <HttpConnector as Service<Uri>>::Response;

/// Connections of one lane that are asked for bodies.
pub(super) struct Straight {
    connector: HttpConnector,
    clock: Arc<dyn Clock>,
    idle_for: Duration,
    most_idle: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Connections without a request, and since when; the last is used first.
    idle: VecDeque<(Io, Duration)>,
    /// Whether a task closes those that wait too long.
    watched: bool,
}

/// A body that was handed over, as an answer carries it.
#[derive(Clone)]
struct Handed(Arc<Mutex<Option<RawBody>>>);

/// A body of which only the head was read. Dropped before its end, it closes its connection.
pub(super) struct RawBody {
    /// What was read together with the head.
    early: VecDeque<Bytes>,
    io: Option<Io>,
    /// Bytes that are still to be read from the connection.
    left: u64,
    /// Who has the connection afterwards, if the server keeps it.
    home: Option<Arc<Straight>>,
}

impl fmt::Debug for Straight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Straight").field("idle", &self.waiting().idle.len()).finish_non_exhaustive()
    }
}

/// The body of an answer, if it was handed over.
pub(super) fn handed_over(answer: &mut GetResult) -> Option<RawBody> {
    let Handed(body) = answer.extensions.remove()?;
    body.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Straight {
    /// Connections by `connector`, of which `most_idle` may wait for `idle_for`.
    pub(super) fn new(
        connector: HttpConnector,
        clock: Arc<dyn Clock>,
        idle_for: Duration,
        most_idle: usize,
    ) -> Arc<Self> {
        Arc::new(Self { connector, clock, idle_for, most_idle, waiting: Mutex::default() })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Every critical section leaves a list of connections.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for this request; `None` if it goes the usual way, which also says why nobody could be reached.
    pub(super) async fn connection(&self, request: &HttpRequest) -> Option<Io> {
        WANTED.try_with(|()| ()).ok()?;
        let uri = request.uri();
        // Without a range it is not the read itself but what the client asks meanwhile, such as for credentials.
        if uri.scheme_str() != Some("http") || !request.headers().contains_key(RANGE) {
            return None;
        }
        // The runtime hears of connections that were closed.
        tokio::task::yield_now().await;
        let idle = || {
            let mut waiting = self.waiting();
            self.close_old(&mut waiting);
            waiting.idle.pop_back()
        };
        while let Some((mut io, _)) = idle() {
            if waits(&mut io) {
                return Some(io);
            }
        }
        self.connector.clone().call(uri.clone()).await.ok()
    }

    /// Makes a request, and hands its body over if it can.
    pub(super) async fn ask(
        self: &Arc<Self>,
        io: Io,
        mut request: HttpRequest,
    ) -> Result<HttpResponse, HttpError> {
        let failed = |error: hyper::Error| HttpError::new(HttpErrorKind::Request, error);
        if let Some(host) = request.uri().authority().map(|host| HeaderValue::from_str(host.as_str()))
            && let Ok(host) = host
        {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        // A server is asked by path, only a proxy by the whole address.
        if let Some(path) = request.uri().path_and_query().cloned() {
            *request.uri_mut() = path.into();
        }
        let (mut sender, connection) =
            Builder::new().max_buf_size(HEAD_BYTES).handshake(io).await.map_err(failed)?;
        let mut connection = Some(connection);
        let mut answered = pin!(sender.send_request(request));
        let answer = poll_fn(|context| {
            let over = connection.as_mut().is_some_and(|on| on.poll_without_shutdown(context).is_ready());
            if over {
                connection = None; // which the request hears if it has no answer yet
            }
            answered.as_mut().poll(context)
        });
        let (mut head, body) = answer.await.map_err(failed)?.into_parts();
        let Some(connection) = connection.take() else {
            // The server closed it: what there is of the body is here.
            return Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body.map_err(failed))));
        };
        let Some(len) = length(&head.headers).filter(|_| head.status.is_success()) else {
            // An error, or a body without a length: the usual way from here on, and the connection ends with it.
            tokio::spawn(async move { drop(connection.await) });
            return Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body.map_err(failed))));
        };
        let Parts { io, mut read_buf, .. } = connection.into_parts();
        let mut early = already_read(body);
        let left = early.iter().fold(len, |left, bytes| left.saturating_sub(bytes.len() as u64));
        let keeps = head.version == Version::HTTP_11
            && !says(&head.headers, &CONNECTION, "close")
            && read_buf.len() as u64 <= left;
        read_buf.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - read_buf.len() as u64;
        early.push_back(read_buf);
        let mut raw = RawBody { early, io: Some(io), left, home: keeps.then(|| Arc::clone(self)) };
        raw.let_go_at_end();
        head.extensions.insert(Handed(Arc::new(Mutex::new(Some(raw)))));
        Ok(HttpResponse::from_parts(head, HttpResponseBody::from(Bytes::new())))
    }

    /// Keeps a connection for the next request, for a while.
    fn keep(self: &Arc<Self>, io: Io) {
        let mut waiting = self.waiting();
        self.close_old(&mut waiting);
        if waiting.idle.len() >= self.most_idle {
            return;
        }
        waiting.idle.push_back((io, self.clock.now()));
        if std::mem::replace(&mut waiting.watched, true) {
            return;
        }
        drop(waiting);
        let (watched, clock, pause) = (Arc::downgrade(self), Arc::clone(&self.clock), self.idle_for);
        tokio::spawn(async move {
            loop {
                clock.sleep(pause).await;
                let Some(straight) = watched.upgrade() else { return };
                let mut waiting = straight.waiting();
                straight.close_old(&mut waiting);
                waiting.watched = !waiting.idle.is_empty();
                if !waiting.watched {
                    return;
                }
            }
        });
    }

    /// Closes connections that have waited too long: servers and balancers do, and may be about to.
    fn close_old(&self, waiting: &mut Waiting) {
        let now = self.clock.now();
        while waiting.idle.front().is_some_and(|(_, since)| now.saturating_sub(*since) >= self.idle_for) {
            waiting.idle.pop_front();
        }
    }
}

/// Whether a connection is still there and nothing came that nobody asked for.
fn waits(io: &mut Io) -> bool {
    let mut byte = [0];
    let mut unasked = ReadBuf::new(&mut byte);
    let polled = Pin::new(io).poll_read(&mut Context::from_waker(Waker::noop()), unasked.unfilled());
    polled.is_pending()
}

/// How long a head says that the body is, if it is sent as it is.
fn length(headers: &HeaderMap) -> Option<u64> {
    let plain = !headers.contains_key(TRANSFER_ENCODING);
    headers.get(CONTENT_LENGTH).filter(|_| plain)?.to_str().ok()?.parse().ok()
}

fn says(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let mut texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    texts.any(|text| text.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
}

/// What hyper had read of a body when it let go of the connection.
fn already_read(mut body: Incoming) -> VecDeque<Bytes> {
    let (mut early, mut nobody) = (VecDeque::new(), Context::from_waker(Waker::noop()));
    while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut nobody) {
        early.extend(frame.into_data());
    }
    early
}

impl RawBody {
    /// Bytes that nobody has read yet.
    pub(super) fn remaining(&self) -> u64 {
        self.early.iter().fold(self.left, |sum, bytes| sum + bytes.len() as u64)
    }

    /// Reads as much as is there, up to the length of `into`; 0 if the body or its connection is at its end.
    ///
    /// # Errors
    /// Those of the connection, which is of no more use then.
    ///
    /// # Cancel safety
    /// Cancel safe: what was read stands in `into` when this returns, and nothing is read before.
    pub(super) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(bytes) = self.early.front_mut() {
            if bytes.is_empty() {
                self.early.pop_front();
                continue;
            }
            let len = bytes.len().min(into.len());
            bytes.copy_to_slice(&mut into[..len]);
            return Ok(len);
        }
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(io) = self.io.as_mut().filter(|_| most > 0) else { return Ok(0) };
        let mut buffer = ReadBuf::new(&mut into[..most]);
        poll_fn(|context| Pin::new(&mut *io).poll_read(context, buffer.unfilled())).await?;
        let len = buffer.filled().len();
        self.left -= len as u64;
        self.let_go_at_end();
        Ok(len)
    }

    /// Leaves a connection on which nothing more comes to the next request.
    fn let_go_at_end(&mut self) {
        if self.left == 0
            && let Some(io) = self.io.take()
            && let Some(home) = self.home.take()
        {
            home.keep(io);
        }
    }
}

#[cfg(test)]
mod tests;
