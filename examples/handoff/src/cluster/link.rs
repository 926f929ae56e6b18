//! A rank's end of its socket: the collective, and the sign that the launcher is still there.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::frames;
use super::hub::{LOST, ROUND};
use super::stop::Stop;
use crate::engine::collective::Collective;

/// Somebody else failed first; this rank only noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// Another rank is gone.
    Rank(u32),
    /// The launcher is gone.
    Launcher,
    /// This rank was told to stop, by a signal or because another one has failed.
    Told,
}

impl fmt::Display for Lost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank(rank) => write!(out, "rank {rank} is gone"),
            Self::Launcher => write!(out, "the launcher closed the connection"),
            Self::Told => write!(out, "told to stop"),
        }
    }
}

impl std::error::Error for Lost {}

/// The rank's side of the star.
#[derive(Debug)]
pub struct Link {
    rank: usize,
    size: usize,
    patience: Duration,
    socket: UnixStream,
    inbox: Receiver<Vec<u8>>,
}

impl Link {
    /// Starts listening on `socket`; sets `stop` when its other end closes. A peer that is silent for `patience`
    /// is an error.
    ///
    /// # Errors
    /// The socket cannot be set up.
    pub fn start(socket: UnixStream, stop: Stop, patience: Duration) -> io::Result<Self> {
        socket.set_write_timeout(Some(patience))?;
        let reader = socket.try_clone()?;
        let (sender, inbox) = channel();
        // Always reading, also while the rank computes: so the end of the launcher is seen at once.
        thread::spawn(move || {
            while let Ok(Some(message)) = frames::receive(&reader) {
                if sender.send(message).is_err() {
                    return;
                }
            }
            stop.set();
        });
        Ok(Self { rank: 0, size: 1, patience, socket, inbox })
    }

    /// Says which rank this is, of how many.
    #[must_use]
    pub fn as_rank(mut self, rank: usize, size: usize) -> Self {
        (self.rank, self.size) = (rank, size);
        self
    }

    /// Changes how long a silent peer is waited for.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Waits for a message from the launcher.
    ///
    /// # Errors
    /// [`Lost::Launcher`], or nothing came in time.
    pub fn receive(&self) -> Result<Vec<u8>> {
        match self.inbox.recv_timeout(self.patience) {
            Ok(message) => Ok(message),
            Err(RecvTimeoutError::Disconnected) => Err(Lost::Launcher.into()),
            Err(RecvTimeoutError::Timeout) => {
                bail!("a rank has not answered for {} s: it hangs, or is very slow", self.patience.as_secs())
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The reader thread holds a clone, so closing takes more than dropping ours.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Collective for Link {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&mut self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        frames::send(&self.socket, mine).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => anyhow::Error::from(Lost::Launcher),
            _ => anyhow::Error::from(error).context("sending to the other ranks"),
        })?;
        let answer = self.receive()?;
        match answer.split_first() {
            Some((&ROUND, parts)) => {
                let parts = frames::split(parts).context("the other ranks' messages are garbled")?;
                if parts.len() != self.size {
                    bail!("{} ranks answered, expected {}", parts.len(), self.size);
                }
                Ok(parts)
            }
            Some((&LOST, rank)) => {
                let rank = rank.try_into().context("the launcher's message is garbled")?;
                Err(Lost::Rank(u32::from_le_bytes(rank)).into())
            }
            _ => bail!("the launcher's message is garbled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::hub::in_process;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn group(size: usize, patience: Duration) -> Vec<Link> {
        let ends = in_process(size, patience).unwrap();
        let link = |(rank, end)| Link::start(end, Stop::default(), patience).unwrap().as_rank(rank, size);
        ends.into_iter().enumerate().map(link).collect()
    }

    #[test]
    fn all_ranks_get_everything_in_rank_order() {
        let ranks: Vec<_> = group(3, PATIENCE)
            .into_iter()
            .map(|mut link| {
                thread::spawn(move || {
                    let rank = u8::try_from(link.rank()).unwrap();
                    let mine = vec![f32::from(rank); usize::from(rank)];
                    let gathered = link.all_gather(&mine, &[0, 1, 2]).unwrap();
                    let least = link.all_min(10 - u64::from(rank)).unwrap();
                    (gathered, least, link.broadcast(&[rank]).unwrap())
                })
            })
            .collect();
        for rank in ranks {
            assert_eq!(rank.join().unwrap(), (vec![1.0, 2.0, 2.0], 8, vec![0]));
        }
    }

    #[test]
    fn a_dead_peer_is_named() {
        let mut links = group(3, PATIENCE);
        drop(links.pop());
        for mut link in links {
            let error = link.exchange(b"hello").unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&Lost::Rank(2)), "{error:#}");
        }
    }

    #[test]
    fn a_silent_peer_is_an_error_not_a_hang() {
        let mut links = group(2, Duration::from_millis(20));
        let error = links[0].exchange(b"hello").unwrap_err();
        assert!(error.to_string().contains("has not answered"), "{error:#}");
    }

    #[test]
    fn the_end_of_the_launcher_stops_the_rank() {
        let (launcher, end) = UnixStream::pair().unwrap();
        let stop = Stop::default();
        let link = Link::start(end, stop.clone(), PATIENCE).unwrap();
        drop(launcher);
        assert!(stop.wait(PATIENCE));
        assert_eq!(link.receive().unwrap_err().downcast_ref(), Some(&Lost::Launcher));
    }

    #[test]
    fn a_vector_of_the_wrong_length_is_refused() {
        let error = crate::engine::collective::Alone.all_gather(&[1.0, 2.0], &[3]).unwrap_err();
        assert!(error.to_string().contains("rank 0 gave 8 bytes"), "{error}");
    }
}
