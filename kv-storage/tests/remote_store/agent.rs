//! The other process's side: serves stores to the tests.

use std::collections::HashMap;
use std::sync::Arc;

use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use kv_storage::{KvStore, ObjectMeta, Publication, ReadPart, Result, Version};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::uploaded;
use super::wire::{Answer, Call, Meta, receive, send};

/// A store, and what it warns of.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) store: Arc<dyn KvStore>,
    pub(crate) warnings: Vec<String>,
}

/// Stores by their places.
type Stores = Arc<Mutex<HashMap<String, Served>>>;

/// Serves what `open` opens, each place once, for ever.
pub(crate) async fn serve<F>(
    listener: TcpListener,
    open: impl Fn(String) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Result<Served>> + Send,
{
    let stores = Stores::default();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (stores, open) = (Arc::clone(&stores), open.clone());
        // A caller that went away is no fault of the agent; what it asked for may still happen.
        tokio::spawn(async move { drop(answer(stream, stores, open).await) });
    }
}

/// One connection: the place of a store, a call, an answer.
async fn answer<F>(mut stream: TcpStream, stores: Stores, open: impl Fn(String) -> F) -> std::io::Result<()>
where
    F: Future<Output = Result<Served>>,
{
    let ((place, call), bytes): ((String, Call), _) = receive(&mut stream).await?;
    let (answer, bytes) = match opened(&stores, place, open).await {
        Ok(served) => perform(&served, call, bytes, &mut stream).await,
        Err(error) => Err(error),
    }
    .unwrap_or_else(|error| {
        let kind = format!("{:?}", error.kind());
        (Answer::Failed { kind, message: error.to_string() }, Vec::new())
    });
    send(&mut stream, &answer, &bytes).await
}

async fn opened<F>(stores: &Stores, place: String, open: impl Fn(String) -> F) -> Result<Served>
where
    F: Future<Output = Result<Served>>,
{
    let mut stores = stores.lock().await;
    if let Some(served) = stores.get(&place) {
        return Ok(served.clone());
    }
    let served = open(place.clone()).await?;
    stores.insert(place, served.clone());
    Ok(served)
}

async fn perform(
    served: &Served,
    call: Call,
    bytes: Vec<u8>,
    stream: &mut TcpStream,
) -> Result<(Answer, Vec<u8>)> {
    let store = &*served.store;
    let answer = match call {
        Call::Warnings => Answer::Words(served.warnings.clone()),
        Call::Idle => {
            store.idle().await;
            Answer::Nothing
        }
        Call::Publish { name } => {
            let upload = uploaded(store, &object(&name), &bytes).await?;
            let ready = send(stream, &Answer::Nothing, &[]).await;
            match ready.and(receive::<Call>(stream).await.map(drop)) {
                Ok(()) => Answer::Yes(upload.commit().await? == Publication::Published),
                Err(_) => Answer::Nothing, // the caller went away: the upload is dropped
            }
        }
        Call::Go => Answer::Nothing, // belongs to a `Publish`
        Call::Read { name, ranges } => {
            let blank = |(offset, len)| ReadPart { offset, buffer: HostBuf::copy_of(&vec![0; len]).unwrap() };
            let outcome = store.read(&object(&name), ranges.into_iter().map(blank).collect()).await;
            let meta = outcome.result?.map(meta);
            return Ok((Answer::Meta(meta), outcome.buffers.iter().flat_map(|part| part.to_vec()).collect()));
        }
        Call::Head { name } => Answer::Meta(store.head(&object(&name)).await?.map(meta)),
        Call::List { namespace, after, limit } => {
            let after = after.as_deref().map(object);
            let found = store.list(&NamespaceDigest(namespace), after.as_ref(), limit).await?;
            Answer::List(found.into_iter().map(meta).collect())
        }
        Call::Delete { name } => Answer::Yes(store.delete(&object(&name)).await?),
        Call::Quarantine { name, version } => {
            Answer::Yes(store.quarantine(&object(&name), &Version(version)).await?)
        }
        Call::CreateRecord { name } => version(store.create_record(&record(&name), &bytes).await?),
        Call::ReplaceRecord { name, expected } => {
            version(store.replace_record(&record(&name), &Version(expected), &bytes).await?)
        }
        Call::ReadRecord { name } => {
            let found = store.read_record(&record(&name)).await?;
            let body = found.as_ref().map(|record| record.body.clone()).unwrap_or_default();
            return Ok((version(found.map(|record| record.version)), body));
        }
        Call::DeleteRecord { name } => Answer::Yes(store.delete_record(&record(&name)).await?),
    };
    Ok((answer, Vec::new()))
}

fn object(name: &str) -> ObjectName {
    name.parse().unwrap()
}

fn record(name: &str) -> RecordName {
    name.parse().unwrap()
}

fn version(version: Option<Version>) -> Answer {
    Answer::Version(version.map(|version| version.0))
}

fn meta(meta: ObjectMeta) -> Meta {
    Meta { name: meta.name.to_string(), len: meta.len, version: meta.version.0 }
}
