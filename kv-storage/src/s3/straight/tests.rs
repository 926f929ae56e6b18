//! A server that says what the test wants, byte by byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Request;
use object_store::client::HttpRequestBody;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(20);

/// Stands until it is set; whoever sleeps wakes when it is told to.
#[derive(Debug, Default)]
struct Hand {
    seconds: AtomicU64,
    wakes: Arc<Notify>,
}

impl Clock for Hand {
    fn now(&self) -> Duration {
        Duration::from_secs(self.seconds.load(Ordering::Relaxed))
    }

    fn unix_millis(&self) -> u64 {
        0
    }

    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let wakes = Arc::clone(&self.wakes);
        Box::pin(async move { wakes.notified().await })
    }
}

/// A server that answers as the test says, and the client of it.
struct Scene {
    listener: TcpListener,
    address: SocketAddr,
    clock: Arc<Hand>,
    straight: Arc<Straight>,
}

impl Scene {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, clock) = (listener.local_addr().unwrap(), Arc::<Hand>::default());
        let straight = Straight::new(HttpConnector::new(), Arc::<Hand>::clone(&clock), IDLE, 2);
        Self { listener, address, clock, straight }
    }

    fn request(&self) -> HttpRequest {
        let request = Request::get(format!("http://{}/bucket/key?x=1", self.address));
        request.header(RANGE, "bytes=0-9").body(HttpRequestBody::empty()).unwrap()
    }

    async fn connect(&self) -> (Io, TcpStream) {
        let request = self.request();
        let (io, server) = tokio::join!(straight(self.straight.connection(&request)), self.listener.accept());
        (io.unwrap(), server.unwrap().0)
    }

    /// The answer to one request, for which the server says `answer`, and what the server heard.
    async fn ask(&self, io: Io, server: &mut TcpStream, answer: &[u8]) -> (HttpResponse, String) {
        let heard = async {
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                heard.push(server.read_u8().await.unwrap());
            }
            server.write_all(answer).await.unwrap();
            String::from_utf8(heard).unwrap()
        };
        let (answer, heard) = tokio::join!(self.straight.ask(io, self.request()), heard);
        (answer.unwrap(), heard)
    }

    fn idle(&self) -> usize {
        self.straight.waiting().idle.len()
    }
}

fn raw(answer: &mut HttpResponse) -> Option<RawBody> {
    let Handed(body) = answer.extensions_mut().remove()?;
    body.lock().unwrap().take()
}

async fn to_end(mut body: RawBody) -> Vec<u8> {
    let (mut all, mut some) = (Vec::new(), [0; 7]);
    loop {
        match body.read(&mut some).await.unwrap() {
            0 => return all,
            len => all.extend_from_slice(&some[..len]),
        }
    }
}

async fn in_time(test: impl Future<Output = ()>) {
    tokio::time::timeout(DEADLINE, test).await.expect("it hangs");
}

#[tokio::test]
async fn a_body_is_read_where_it_belongs_and_its_connection_makes_the_next_request() {
    in_time(async {
        let scene = Scene::new().await;
        let (mut io, mut server) = scene.connect().await;
        for early in [0, 3, 10] {
            let head = b"HTTP/1.1 206 Partial Content\r\ncontent-length: 10\r\n\r\n";
            let sent = [&head[..], &b"0123456789"[..early]].concat();
            let (mut answer, heard) = scene.ask(io, &mut server, &sent).await;
            assert!(heard.starts_with("GET /bucket/key?x=1 HTTP/1.1\r\n"), "{heard}");
            assert!(heard.contains(&format!("host: {}\r\n", scene.address)), "{heard}");
            let body = raw(&mut answer).unwrap();
            assert_eq!(body.remaining(), 10);
            let (read, sent) = tokio::join!(to_end(body), server.write_all(&b"0123456789"[early..]));
            sent.unwrap();
            assert_eq!(read, b"0123456789", "{early} bytes came with the head");
            assert_eq!(scene.idle(), 1);
            // Nobody accepts another.
            io = straight(scene.straight.connection(&scene.request())).await.unwrap();
            assert_eq!(scene.idle(), 0);
        }
    })
    .await;
}

#[tokio::test]
async fn what_has_no_length_or_is_no_success_goes_the_usual_way() {
    for answer in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nbody",
        "HTTP/1.0 200 OK\r\n\r\nbody",
    ] {
        in_time(async {
            let scene = Scene::new().await;
            let (io, mut server) = scene.connect().await;
            let (mut answered, _) = scene.ask(io, &mut server, answer.as_bytes()).await;
            drop(server);
            assert!(raw(&mut answered).is_none(), "{answer}");
            assert_eq!(answered.into_body().bytes().await.unwrap(), "body", "{answer}");
            assert_eq!(scene.idle(), 0, "{answer}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_that_may_not_be_used_again_is_not() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: foo, Close\r\n\r\nbody",
        "HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody and more",
    ] {
        in_time(async {
            let scene = Scene::new().await;
            let (io, mut server) = scene.connect().await;
            let (mut answered, _) = scene.ask(io, &mut server, answer.as_bytes()).await;
            let read = match raw(&mut answered) {
                Some(body) => to_end(body).await,
                None => answered.into_body().bytes().await.unwrap().to_vec(),
            };
            assert_eq!(read, b"body", "{answer}");
            assert_eq!(scene.idle(), 0, "{answer}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_or_is_old_is_not_used_and_a_body_that_breaks_off_ends() {
    in_time(async {
        let scene = Scene::new().await;
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";
        for old in [false, true] {
            let (io, mut server) = scene.connect().await;
            let (mut answer, _) = scene.ask(io, &mut server, whole).await;
            assert_eq!(to_end(raw(&mut answer).unwrap()).await, b"body");
            assert_eq!(scene.idle(), 1);
            if old {
                scene.clock.seconds.fetch_add(IDLE.as_secs(), Ordering::Relaxed);
            } else {
                drop(server);
            }
            // It would hang if it took the other.
            drop(scene.connect().await);
        }
        let (io, mut server) = scene.connect().await;
        let (mut answer, _) = scene.ask(io, &mut server, &whole[..whole.len() - 1]).await;
        drop(server);
        assert_eq!(to_end(raw(&mut answer).unwrap()).await, b"bod");
        assert_eq!(scene.idle(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_nobody_uses_is_closed_in_time() {
    in_time(async {
        let scene = Scene::new().await;
        let (io, mut server) = scene.connect().await;
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";
        let (mut answer, _) = scene.ask(io, &mut server, whole).await;
        assert_eq!(to_end(raw(&mut answer).unwrap()).await, b"body");
        assert_eq!(scene.idle(), 1);
        scene.clock.seconds.store(IDLE.as_secs(), Ordering::Relaxed);
        scene.clock.wakes.notify_one();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0, "the other end hears of it");
        assert_eq!(scene.idle(), 0);
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_no_reads_are_left_to_the_client() {
    let scene = Scene::new().await;
    assert!(scene.straight.connection(&scene.request()).await.is_none(), "nobody wants its body");
    let mut without_range = scene.request();
    without_range.headers_mut().remove(RANGE);
    assert!(straight(scene.straight.connection(&without_range)).await.is_none());
    let mut secure = scene.request();
    *secure.uri_mut() = format!("https://{}/", scene.address).parse().unwrap();
    assert!(straight(scene.straight.connection(&secure)).await.is_none());
}
