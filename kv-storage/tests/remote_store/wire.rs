//! What the two processes say to each other: frames of a JSON message and bytes, each behind its length.

use std::io::{Error, ErrorKind, Result};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A call of a store. Names, versions and digests are text.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    Warnings,
    Idle,
    /// With the object's bytes; the commit waits for a [`Call::Go`].
    Publish {
        name: String,
    },
    Go,
    Read {
        name: String,
        ranges: Vec<(u64, usize)>,
    },
    Head {
        name: String,
    },
    List {
        namespace: [u8; 32],
        after: Option<String>,
        limit: usize,
    },
    Delete {
        name: String,
    },
    Quarantine {
        name: String,
        version: String,
    },
    CreateRecord {
        name: String,
    },
    ReplaceRecord {
        name: String,
        expected: String,
    },
    ReadRecord {
        name: String,
    },
    DeleteRecord {
        name: String,
    },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Nothing,
    Words(Vec<String>),
    Yes(bool),
    /// With the bytes of a read.
    Meta(Option<Meta>),
    List(Vec<Meta>),
    /// With a record's body.
    Version(Option<String>),
    Failed {
        kind: String,
        message: String,
    },
}

/// An object's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub name: String,
    pub len: u64,
    pub version: String,
}

/// Longest message and longest run of bytes.
const LIMIT: u32 = 256 << 20;

/// Sends a frame.
pub(crate) async fn send(stream: &mut TcpStream, message: &impl Serialize, bytes: &[u8]) -> Result<()> {
    let message = serde_json::to_vec(message)?;
    for part in [message.as_slice(), bytes] {
        let len = u32::try_from(part.len()).map_err(|_| too_long(part.len()))?;
        stream.write_u32_le(len).await?;
        stream.write_all(part).await?;
    }
    stream.flush().await
}

/// Receives a frame.
pub(crate) async fn receive<T: DeserializeOwned>(stream: &mut TcpStream) -> Result<(T, Vec<u8>)> {
    let message = part(stream).await?;
    let bytes = part(stream).await?;
    Ok((serde_json::from_slice(&message)?, bytes))
}

async fn part(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let len = stream.read_u32_le().await?;
    if len > LIMIT {
        return Err(too_long(len as usize));
    }
    let mut part = vec![0; len as usize];
    stream.read_exact(&mut part).await?;
    Ok(part)
}

fn too_long(len: usize) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{len} bytes in one frame: expected at most {LIMIT}"))
}
