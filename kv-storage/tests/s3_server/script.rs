//! What happens to chosen requests on their way: instead of reaching the store, or after they did.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response};
use s3s::service::S3Service;

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// An answer of this status and code, without asking the store.
    Answer(u16, &'static str),
    /// As [`Fault::Answer`], after the store has done what it was asked.
    DoneThenAnswer(u16, &'static str),
    /// The connection is closed without an answer, after the store has done what it was asked.
    DoneThenReset,
    /// The connection is closed without an answer.
    Reset,
    /// Nothing is answered, ever.
    Hang,
    /// The body breaks off behind so many bytes, and the connection with it.
    CutBody(usize),
    /// The body stops behind so many bytes, and the connection stays.
    StallBody(usize),
    /// The body is so many bytes shorter than the range that it says it is, and `Content-Length` agrees.
    ShortBody(usize),
    /// The body is so many bytes longer than the range.
    LongBody(usize),
    /// A byte of the upload is changed on its way.
    Damage,
}

#[derive(Debug)]
struct Rule {
    method: Method,
    /// What the path and query contain.
    target: &'static str,
    times: usize,
    fault: Fault,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<(Method, String)>,
}

/// The faults to come, and the requests that came; a clone is another handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    state: Arc<Mutex<State>>,
}

impl Script {
    /// The next `times` requests of `method` beneath `v1/` get this fault.
    pub(crate) fn inject(&self, method: Method, times: usize, fault: Fault) {
        self.inject_on(method, "", times, fault);
    }

    /// The next `times` of them whose path and query contain `target`.
    pub(crate) fn inject_on(&self, method: Method, target: &'static str, times: usize, fault: Fault) {
        self.state.lock().unwrap().rules.push(Rule { method, target, times, fault });
    }

    /// Forgets the faults that are left, and the requests that came.
    pub(crate) fn clear(&self) {
        *self.state.lock().unwrap() = State::default();
    }

    /// How many requests of `method` beneath `v1/` came.
    pub(crate) fn count(&self, method: &Method) -> usize {
        self.count_on(method, "")
    }

    /// How many of them have `target` in their path and query.
    pub(crate) fn count_on(&self, method: &Method, target: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.requests.iter().filter(|(of, path)| of == method && path.contains(target)).count()
    }

    fn next(&self, method: &Method, path: &str) -> Option<Fault> {
        if !path.contains("/v1") {
            return None; // the probe is left alone
        }
        let mut state = self.state.lock().unwrap();
        state.requests.push((method.clone(), path.to_owned()));
        let applies =
            |rule: &&mut Rule| rule.method == *method && rule.times > 0 && path.contains(rule.target);
        let rule = state.rules.iter_mut().find(applies)?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    /// Answers a request; an error closes the connection.
    pub(crate) async fn answer(
        &self,
        service: &S3Service,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, std::io::Error> {
        let target = request.uri().to_string();
        let Some(fault) = self.next(request.method(), &target) else {
            return Ok(Answer::plain(call(service, request.map(s3s::Body::from)).await));
        };
        let reset = || Err(std::io::Error::other("closed by the script"));
        match fault {
            Fault::Answer(status, code) => {
                drain(request).await;
                Ok(Answer::error(status, code))
            }
            Fault::DoneThenAnswer(status, code) => {
                drop(call(service, request.map(s3s::Body::from)).await);
                Ok(Answer::error(status, code))
            }
            Fault::DoneThenReset => {
                drop(call(service, request.map(s3s::Body::from)).await);
                reset()
            }
            Fault::Reset => reset(),
            Fault::Hang => std::future::pending().await,
            Fault::Damage => Ok(Answer::plain(call(service, damaged(request).await).await)),
            Fault::CutBody(len) => {
                let response = call(service, request.map(s3s::Body::from)).await;
                Ok(response.map(|body| Answer { body, left: len, then: Then::Break }))
            }
            Fault::StallBody(len) => {
                let response = call(service, request.map(s3s::Body::from)).await;
                Ok(response.map(|body| Answer { body, left: len, then: Then::Stall }))
            }
            Fault::ShortBody(missing) => {
                Ok(resized(call(service, request.map(s3s::Body::from)).await, |body| {
                    body.truncate(body.len() - missing);
                })
                .await)
            }
            Fault::LongBody(more) => Ok(resized(call(service, request.map(s3s::Body::from)).await, |body| {
                body.resize(body.len() + more, 0xbb);
            })
            .await),
        }
    }
}

async fn call(service: &S3Service, request: Request<s3s::Body>) -> Response<s3s::Body> {
    service.call(request).await.unwrap_or_else(|error| panic!("s3s: {error:?}"))
}

async fn drain(request: Request<Incoming>) {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
}

async fn damaged(request: Request<Incoming>) -> Request<s3s::Body> {
    let (head, body) = request.into_parts();
    let mut bytes = BodyExt::collect(body).await.unwrap().to_bytes().to_vec();
    if let Some(byte) = bytes.last_mut() {
        *byte ^= 1;
    }
    Request::from_parts(head, s3s::Body::from(bytes))
}

async fn resized(response: Response<s3s::Body>, change: impl FnOnce(&mut Vec<u8>)) -> Response<Answer> {
    let (mut head, body) = response.into_parts();
    let mut bytes = BodyExt::collect(body).await.unwrap().to_bytes().to_vec();
    change(&mut bytes);
    head.headers.insert("content-length", bytes.len().into());
    Answer::plain(Response::from_parts(head, s3s::Body::from(bytes)))
}

/// What is done when a body has come as far as it should.
#[derive(Debug, Clone, Copy)]
enum Then {
    Break,
    Stall,
}

/// A body that may end badly.
pub(crate) struct Answer {
    body: s3s::Body,
    left: usize,
    then: Then,
}

impl Answer {
    fn plain(response: Response<s3s::Body>) -> Response<Self> {
        response.map(|body| Self { body, left: usize::MAX, then: Then::Break })
    }

    fn error(status: u16, code: &str) -> Response<Self> {
        let text = format!("<Error><Code>{code}</Code><Message>scripted</Message></Error>");
        let body = s3s::Body::from(text);
        Self::plain(Response::builder().status(status).body(body).unwrap())
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return match self.then {
                Then::Break => Poll::Ready(Some(Err(std::io::Error::other("cut by the script")))),
                Then::Stall => Poll::Pending,
            };
        }
        match self.body.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(mut bytes))) => {
                bytes.truncate(self.left);
                self.left -= if self.left == usize::MAX { 0 } else { bytes.len() };
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(std::io::Error::other(error)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
