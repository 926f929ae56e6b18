//! Streams and events: queues of work, each in order, and nothing between two queues but events.

use std::collections::{BTreeMap, VecDeque};

use super::work::{Failure, Work};

/// When work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Schedule {
    /// When somebody waits for it or for what follows it, on the thread that waits, and no earlier; a query sees progress only when it
    /// is repeated. The laziest device that keeps the rules: what was not waited for has not happened.
    #[default]
    Lazy,
    /// As soon as it can, on a thread for each stream.
    Threads,
}

/// Why a call about a stream or an event failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandleError {
    /// No live stream or event has this handle.
    Unknown,
    /// The device of the stream failed.
    Failed(Failure),
}

/// One entry of a queue.
#[derive(Debug)]
pub(super) enum Entry {
    /// The work, and when it ends by the model.
    Work(Work, u64),
    Record {
        event: u64,
        generation: u64,
    },
    Wait {
        event: u64,
        generation: u64,
    },
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) device: u32,
    pub(super) queue: VecDeque<Entry>,
    pub(super) submitted: u64,
    pub(super) completed: u64,
    pub(super) running: bool,
    pub(super) held: bool,
    /// When all of it has ended, by the model.
    pub(super) ready: u64,
}

#[derive(Debug)]
pub(super) struct Event {
    pub(super) device: u32,
    /// How often it was recorded, and the last of these that was reached.
    pub(super) recorded: u64,
    pub(super) reached: u64,
    /// Where the records stand that were not reached: generation, stream, position in it.
    pub(super) records: Vec<(u64, u64, u64)>,
    /// When the last record is reached, by the model.
    pub(super) time: u64,
    pub(super) queries: u32,
}

/// What became of an attempt to run the first entry of a stream.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing is queued, or there is no such stream.
    Idle,
    /// Held, or another thread runs it.
    Blocked,
    /// It waits for a record in another stream.
    Needs(u64),
    /// An entry without work was taken.
    Taken,
    /// To run, and then to report.
    Run(Work, u64, u32),
}

/// All streams and events of a machine.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) streams: BTreeMap<u64, Stream>,
    pub(super) events: BTreeMap<u64, Event>,
}

impl Streams {
    pub(super) fn add_stream(&mut self, handle: u64, device: u32) {
        let stream = Stream {
            device,
            queue: VecDeque::new(),
            submitted: 0,
            completed: 0,
            running: false,
            held: false,
            ready: 0,
        };
        self.streams.insert(handle, stream);
    }

    pub(super) fn add_event(&mut self, handle: u64, device: u32) {
        let event = Event { device, recorded: 0, reached: 0, records: Vec::new(), time: 0, queries: 0 };
        self.events.insert(handle, event);
    }

    pub(super) fn stream(&mut self, handle: u64) -> Result<&mut Stream, HandleError> {
        self.streams.get_mut(&handle).ok_or(HandleError::Unknown)
    }

    pub(super) fn event(&mut self, handle: u64) -> Result<&mut Event, HandleError> {
        self.events.get_mut(&handle).ok_or(HandleError::Unknown)
    }

    pub(super) fn push(&mut self, handle: u64, entry: Entry) -> Result<u64, HandleError> {
        let stream = self.stream(handle)?;
        stream.queue.push_back(entry);
        stream.submitted += 1;
        Ok(stream.submitted)
    }

    /// Records an event behind what a stream has queued.
    pub(super) fn record(&mut self, event: u64, stream: u64) -> Result<(), HandleError> {
        let ready = self.stream(stream)?.ready;
        let recorded = self.event(event)?;
        recorded.recorded += 1;
        recorded.time = ready;
        recorded.queries = 0;
        let generation = recorded.recorded;
        let position = self.push(stream, Entry::Record { event, generation })?;
        self.event(event)?.records.push((generation, stream, position));
        Ok(())
    }

    /// Makes a stream wait for an event as it is recorded now.
    pub(super) fn wait(&mut self, stream: u64, event: u64) -> Result<(), HandleError> {
        let (generation, time) = {
            let event = self.event(event)?;
            (event.recorded, event.time)
        };
        let waiting = self.stream(stream)?;
        waiting.ready = waiting.ready.max(time);
        self.push(stream, Entry::Wait { event, generation }).map(drop)
    }

    /// Takes the first entry of a stream, if it can run.
    pub(super) fn step(&mut self, handle: u64) -> Step {
        let Some(stream) = self.streams.get_mut(&handle) else { return Step::Idle };
        if stream.running || stream.held {
            return Step::Blocked;
        }
        match stream.queue.front() {
            None => return Step::Idle,
            Some(Entry::Wait { event, generation }) => {
                let unreached = self.events.get(event).filter(|event| event.reached < *generation);
                let record = |event: &Event| event.records.iter().find(|(g, ..)| g >= generation).copied();
                if let Some((_, stream, _)) = unreached.and_then(record) {
                    return Step::Needs(stream);
                }
            }
            Some(Entry::Record { event, generation }) => {
                if let Some(event) = self.events.get_mut(event) {
                    event.reached = event.reached.max(*generation);
                    let reached = event.reached;
                    event.records.retain(|(generation, ..)| *generation > reached);
                }
            }
            Some(Entry::Work(..)) => {}
        }
        match stream.queue.pop_front() {
            Some(Entry::Work(work, end)) => {
                stream.running = true;
                Step::Run(work, end, stream.device)
            }
            _ => {
                stream.completed += 1;
                Step::Taken
            }
        }
    }

    /// The work of a stream has ended.
    pub(super) fn ended(&mut self, handle: u64) {
        if let Some(stream) = self.streams.get_mut(&handle) {
            stream.running = false;
            stream.completed += 1;
        }
    }

    /// Whether a stream has come to a position; a stream that is gone has.
    pub(super) fn done(&self, handle: u64, position: u64) -> bool {
        self.streams.get(&handle).is_none_or(|stream| stream.completed >= position)
    }
}
