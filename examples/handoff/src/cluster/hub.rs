//! The middle of the star: collects one message from every rank, then gives all of them to everybody.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use super::frames;

/// First byte of an answer: all ranks' messages follow.
pub const ROUND: u8 = 0;
/// First byte of an answer: the number (u32) of a rank that is gone follows.
pub const LOST: u8 = 1;

/// What happens on the ranks' sockets.
#[derive(Debug)]
pub enum FromRank {
    /// A rank's message for the round.
    Message(usize, Vec<u8>),
    /// A rank has closed its socket; nothing more comes from it.
    Closed(usize),
}

/// The launcher's ends of all ranks' sockets.
#[derive(Debug)]
pub struct Hub {
    links: Vec<UnixStream>,
    waiting: Vec<Option<Vec<u8>>>,
    lost: Option<usize>,
}

impl Hub {
    /// Starts reading all sockets; what arrives goes to `events` through `wrap`. A rank that takes no bytes for
    /// `patience` counts as gone.
    ///
    /// # Errors
    /// The sockets cannot be set up.
    pub fn start<E, W>(
        links: Vec<UnixStream>,
        patience: Duration,
        events: &Sender<E>,
        wrap: W,
    ) -> io::Result<Self>
    where
        E: Send + 'static,
        W: Fn(FromRank) -> E + Clone + Send + 'static,
    {
        for (rank, link) in links.iter().enumerate() {
            link.set_write_timeout(Some(patience))?;
            let (link, events, wrap) = (link.try_clone()?, events.clone(), wrap.clone());
            thread::spawn(move || {
                // A broken message is a closed socket: either way this rank takes part no more.
                while let Ok(Some(message)) = frames::receive(&link) {
                    if events.send(wrap(FromRank::Message(rank, message))).is_err() {
                        return;
                    }
                }
                // Nobody listening means that the hub has ended already.
                let _ = events.send(wrap(FromRank::Closed(rank)));
            });
        }
        let waiting = vec![None; links.len()];
        Ok(Self { links, waiting, lost: None })
    }

    /// Sends each rank its first message.
    ///
    /// # Errors
    /// A rank is gone already.
    pub fn brief(&self, rank: usize, message: &[u8]) -> io::Result<()> {
        frames::send(&self.links[rank], message)
    }

    /// Takes part in what happened; answers the ranks when a round is complete, or can never be.
    pub fn on(&mut self, event: FromRank) {
        match event {
            FromRank::Message(rank, message) => self.waiting[rank] = Some(message),
            FromRank::Closed(rank) => self.lost = self.lost.or(Some(rank)),
        }
        if let Some(lost) = self.lost {
            let mut answer = vec![LOST];
            answer.extend(u32::try_from(lost).unwrap_or(u32::MAX).to_le_bytes());
            for (link, waiting) in self.links.iter().zip(&mut self.waiting) {
                if waiting.take().is_some() {
                    // A second rank that is gone cannot be told about the first.
                    let _ = frames::send(link, &answer);
                }
            }
        } else if self.waiting.iter().all(Option::is_some) {
            let messages: Vec<Vec<u8>> = self.waiting.iter_mut().filter_map(Option::take).collect();
            let mut answer = vec![ROUND];
            answer.extend(frames::join(&messages));
            for (rank, link) in self.links.iter().enumerate() {
                if frames::send(link, &answer).is_err() {
                    self.lost = self.lost.or(Some(rank));
                }
            }
        }
    }

    /// Closes all sockets: every rank sees the end and stops.
    pub fn close(&self) {
        for link in &self.links {
            // Already closed is as good.
            let _ = link.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Serves a group of ranks until all have closed their sockets.
    pub fn serve(mut self, events: &Receiver<FromRank>) {
        let mut open = self.links.len();
        while open > 0 {
            let Ok(event) = events.recv() else { return };
            if matches!(event, FromRank::Closed(_)) {
                open -= 1;
            }
            self.on(event);
        }
    }
}

/// A group whose ranks are threads of this process: returns the ranks' ends of the sockets.
///
/// # Errors
/// Sockets cannot be made.
pub fn in_process(ranks: usize, patience: Duration) -> io::Result<Vec<UnixStream>> {
    let pairs: Vec<_> = (0..ranks).map(|_| UnixStream::pair()).collect::<io::Result<_>>()?;
    let (hub_ends, rank_ends) = pairs.into_iter().unzip();
    let (sender, events) = channel();
    let hub = Hub::start(hub_ends, patience, &sender, |event| event)?;
    thread::spawn(move || hub.serve(&events));
    Ok(rank_ends)
}
