//! A store in another process, on this host or another one, as a store: each call is a connection to its agent, and an answer is the
//! other process's word that it is done.

pub(crate) mod agent;
mod wire;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use kv_format::{NamespaceDigest, ObjectName, RecordName};
use kv_memory::HostBuf;
use kv_storage::parts::{Coverage, record_fits};
use kv_storage::{
    Capabilities, Error, ErrorKind, KvStore, ObjectMeta, Publication, ReadOutcome, ReadPart, Record, Result,
    StoreHealth, Upload, Version, WriteOrder,
};
use tokio::net::TcpStream;

use self::wire::{Answer, Call, Meta, receive, send};

/// A store of the other process.
#[derive(Debug, Clone)]
pub(crate) struct RemoteStore {
    agent: String,
    place: String,
}

impl RemoteStore {
    /// Has the agent open what is there: a directory, a URL.
    pub(crate) async fn open(agent: &str, place: &str) -> Result<Self> {
        let store = Self { agent: agent.to_owned(), place: place.to_owned() };
        store.warnings().await?;
        Ok(store)
    }

    /// What the other process's store warns of.
    pub(crate) async fn warnings(&self) -> Result<Vec<String>> {
        match self.call(Call::Warnings, &[]).await? {
            (Answer::Words(words), _) => Ok(words),
            other => Err(self.unexpected(&other.0)),
        }
    }

    /// An upload in the other process, complete and about to be committed.
    pub(crate) async fn prepare(&self, name: &ObjectName, bytes: &[u8]) -> Result<Prepared> {
        let mut stream = self.start(Call::Publish { name: name.to_string() }, bytes).await?;
        match self.answer(&mut stream).await? {
            (Answer::Nothing, _) => Ok(Prepared { store: self.clone(), stream }),
            other => Err(self.unexpected(&other.0)),
        }
    }

    async fn start(&self, call: Call, bytes: &[u8]) -> Result<TcpStream> {
        let sending = async {
            let mut stream = TcpStream::connect(&self.agent).await?;
            stream.set_nodelay(true)?;
            send(&mut stream, &(&self.place, call), bytes).await?;
            Ok(stream)
        };
        sending.await.map_err(|error| self.lost(error))
    }

    async fn answer(&self, stream: &mut TcpStream) -> Result<(Answer, Vec<u8>)> {
        match receive(stream).await.map_err(|error| self.lost(error))? {
            (Answer::Failed { kind, message }, _) => Err(Error::new(kind_named(&kind), self, message)),
            answer => Ok(answer),
        }
    }

    async fn call(&self, call: Call, bytes: &[u8]) -> Result<(Answer, Vec<u8>)> {
        let mut stream = self.start(call, bytes).await?;
        self.answer(&mut stream).await
    }

    async fn yes(&self, call: Call) -> Result<bool> {
        match self.call(call, &[]).await? {
            (Answer::Yes(yes), _) => Ok(yes),
            other => Err(self.unexpected(&other.0)),
        }
    }

    async fn version(&self, call: Call, bytes: &[u8]) -> Result<(Option<Version>, Vec<u8>)> {
        match self.call(call, bytes).await? {
            (Answer::Version(version), body) => Ok((version.map(Version), body)),
            other => Err(self.unexpected(&other.0)),
        }
    }

    async fn meta(&self, call: Call) -> Result<Option<(ObjectMeta, Vec<u8>)>> {
        match self.call(call, &[]).await? {
            (Answer::Meta(found), bytes) => Ok(found.map(|meta| (meta_of(meta), bytes))),
            other => Err(self.unexpected(&other.0)),
        }
    }

    fn unexpected(&self, answer: &Answer) -> Error {
        Error::new(ErrorKind::Backend, self, format!("the agent answered {answer:?}"))
    }

    fn lost(&self, error: std::io::Error) -> Error {
        Error::new(ErrorKind::Unavailable, self, format!("the agent does not answer: {error}"))
    }
}

/// An upload in the other process that waits for its commit.
pub(crate) struct Prepared {
    store: RemoteStore,
    stream: TcpStream,
}

impl Prepared {
    /// Commits it.
    pub(crate) async fn go(mut self) -> Result<Publication> {
        send(&mut self.stream, &Call::Go, &[]).await.map_err(|error| self.store.lost(error))?;
        match self.store.answer(&mut self.stream).await? {
            (Answer::Yes(true), _) => Ok(Publication::Published),
            (Answer::Yes(false), _) => Ok(Publication::AlreadyExists),
            other => Err(self.store.unexpected(&other.0)),
        }
    }
}

/// An upload with all its bytes, to be committed.
pub(crate) async fn uploaded(
    store: &dyn KvStore,
    name: &ObjectName,
    bytes: &[u8],
) -> Result<Box<dyn Upload>> {
    let upload = store.begin(name, bytes.len() as u64).await?;
    for (offset, part) in (0..).step_by(1 << 20).zip(bytes.chunks(1 << 20)) {
        upload.write(offset, HostBuf::copy_of(part).unwrap()).await.1?;
    }
    Ok(upload)
}

fn kind_named(name: &str) -> ErrorKind {
    use ErrorKind::{Backend, Invalid, NoSpace, OutOfRange, PermissionDenied, Unavailable, Unsupported};
    let kinds = [PermissionDenied, NoSpace, Unavailable, OutOfRange, Invalid, Unsupported];
    kinds.into_iter().find(|kind| format!("{kind:?}") == name).unwrap_or(Backend)
}

fn meta_of(meta: Meta) -> ObjectMeta {
    ObjectMeta { name: meta.name.parse().unwrap(), len: meta.len, version: Version(meta.version) }
}

impl fmt::Display for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "other process:{}", self.place)
    }
}

#[async_trait]
impl KvStore for RemoteStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            write_order: WriteOrder::Whole,
            part_bytes: 1 << 20,
            alignment: 1,
            concurrency: 4,
            atomic_create: true,
        }
    }

    fn health(&self) -> StoreHealth {
        StoreHealth::default() // a dropped call leaves nothing here
    }

    async fn idle(&self) {
        self.call(Call::Idle, &[]).await.unwrap();
    }

    async fn begin(&self, name: &ObjectName, len: u64) -> Result<Box<dyn Upload>> {
        let coverage = Coverage::new(self.to_string(), name.to_string(), len);
        let bytes = Mutex::new(vec![0; usize::try_from(len).unwrap()]);
        Ok(Box::new(RemoteUpload { store: self.clone(), name: *name, coverage, bytes }))
    }

    async fn read(&self, name: &ObjectName, mut parts: Vec<ReadPart>) -> ReadOutcome {
        let ranges = parts.iter().map(|part| (part.offset, part.buffer.len())).collect();
        let answer = self.meta(Call::Read { name: name.to_string(), ranges }).await;
        let result = answer.map(|found| {
            found.map(|(meta, bytes)| {
                let mut rest = bytes.as_slice();
                for part in &mut parts {
                    let (mine, others) = rest.split_at(part.buffer.len());
                    part.buffer.copy_from_slice(mine);
                    rest = others;
                }
                meta
            })
        });
        ReadOutcome { buffers: parts.into_iter().map(|part| part.buffer).collect(), result }
    }

    async fn head(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        Ok(self.meta(Call::Head { name: name.to_string() }).await?.map(|(meta, _)| meta))
    }

    async fn list(
        &self,
        namespace: &NamespaceDigest,
        after: Option<&ObjectName>,
        limit: usize,
    ) -> Result<Vec<ObjectMeta>> {
        let call = Call::List { namespace: namespace.0, after: after.map(ToString::to_string), limit };
        match self.call(call, &[]).await? {
            (Answer::List(list), _) => Ok(list.into_iter().map(meta_of).collect()),
            other => Err(self.unexpected(&other.0)),
        }
    }

    async fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.yes(Call::Delete { name: name.to_string() }).await
    }

    async fn quarantine(&self, name: &ObjectName, version: &Version) -> Result<bool> {
        self.yes(Call::Quarantine { name: name.to_string(), version: version.0.clone() }).await
    }

    async fn create_record(&self, name: &RecordName, body: &[u8]) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        Ok(self.version(Call::CreateRecord { name: name.to_string() }, body).await?.0)
    }

    async fn replace_record(
        &self,
        name: &RecordName,
        expected: &Version,
        body: &[u8],
    ) -> Result<Option<Version>> {
        record_fits(self, name, body)?;
        let call = Call::ReplaceRecord { name: name.to_string(), expected: expected.0.clone() };
        Ok(self.version(call, body).await?.0)
    }

    async fn read_record(&self, name: &RecordName) -> Result<Option<Record>> {
        let (version, body) = self.version(Call::ReadRecord { name: name.to_string() }, &[]).await?;
        Ok(version.map(|version| Record { body, version }))
    }

    async fn delete_record(&self, name: &RecordName) -> Result<bool> {
        self.yes(Call::DeleteRecord { name: name.to_string() }).await
    }
}

/// An object that is kept here until its commit.
#[derive(Debug)]
struct RemoteUpload {
    store: RemoteStore,
    name: ObjectName,
    coverage: Coverage,
    bytes: Mutex<Vec<u8>>,
}

#[async_trait]
impl Upload for RemoteUpload {
    async fn write(&self, offset: u64, part: HostBuf) -> (HostBuf, Result<()>) {
        let writing = match self.coverage.writing(offset, part.len()) {
            Ok(writing) => writing,
            Err(error) => return (part, Err(error)),
        };
        let start = usize::try_from(offset).unwrap();
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes[start..start + part.len()].copy_from_slice(&part);
        writing.done();
        drop(bytes);
        (part, Ok(()))
    }

    async fn commit(self: Box<Self>) -> Result<Publication> {
        self.coverage.complete()?;
        let bytes = self.bytes.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.store.prepare(&self.name, &bytes).await?.go().await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
