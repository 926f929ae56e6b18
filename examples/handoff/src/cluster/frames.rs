//! Messages on a rank's socket: a length and that many bytes.

use std::io::{self, Read, Write};

/// Far above any message (a chunk of activations), far below what a broken length could ask for.
const LARGEST: u32 = 1 << 28;

/// Sends one message.
///
/// # Errors
/// The peer is gone, or does not take bytes before the socket's write timeout.
pub fn send(mut to: impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).ok().filter(|length| *length <= LARGEST);
    let length = length.ok_or_else(|| io::Error::other(format!("a message of {} bytes", message.len())))?;
    // One write where it fits: a message of a few bytes should not become two packets.
    let mut bytes = Vec::with_capacity(message.len() + 4);
    bytes.extend(length.to_le_bytes());
    bytes.extend(message);
    to.write_all(&bytes)
}

/// Receives one message; `None` when the peer has closed its end.
///
/// # Errors
/// The connection broke inside a message, or the length makes no sense.
pub fn receive(mut from: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > LARGEST {
        return Err(io::Error::other(format!("a message claims {length} bytes")));
    }
    let mut message = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact(&mut message)?;
    Ok(Some(message))
}

/// Several byte strings as one.
#[must_use]
pub fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(parts.iter().map(|part| part.len() + 8).sum());
    for part in parts {
        joined.extend((part.len() as u64).to_le_bytes());
        joined.extend(part);
    }
    joined
}

/// The byte strings that [`join`] put together; `None` if the bytes are not such a sequence.
#[must_use]
pub fn split(mut joined: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut parts = Vec::new();
    while !joined.is_empty() {
        let (length, rest) = joined.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (part, rest) = rest.split_at_checked(length)?;
        parts.push(part.to_vec());
        joined = rest;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_their_parts_return() {
        let parts = vec![vec![1, 2, 3], vec![], vec![0; 100]];
        let mut wire = Vec::new();
        send(&mut wire, &join(&parts)).unwrap();
        let mut wire = wire.as_slice();
        assert_eq!(split(&receive(&mut wire).unwrap().unwrap()), Some(parts));
        assert_eq!(receive(&mut wire).unwrap(), None);
    }

    #[test]
    fn wild_and_cut_messages_are_errors() {
        assert!(receive([0xff; 8].as_slice()).is_err());
        assert!(receive([3, 0, 0, 0, 1].as_slice()).is_err());
        assert_eq!(split(&[200, 0, 0, 0, 0, 0, 0, 0, 1]), None);
        assert_eq!(split(&[1, 2]), None);
    }
}
