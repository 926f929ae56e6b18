//! What is measured: one row for each plain loop and each pipeline operation.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::Result;
use kv_pipeline::Delivery;
use tokio::runtime::Runtime;

use crate::ceilings::{Ceilings, Loop, RUNS_PIECES};
use crate::engine::{Engine, OBJECT_BYTES, SHAPES};
use crate::same_runs::{SameRuns, Stores};

/// Save or load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Save,
    Load,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Save, Self::Load];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Load => "load",
        }
    }

    /// What the mission asks for, in GB/s: from, to.
    pub(crate) fn target(self) -> (f64, f64) {
        match self {
            Self::Save => (20.0, 25.0),
            Self::Load => (16.0, 20.0),
        }
    }
}

/// What a row is a figure of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Copy,
    ChecksumHot,
    ChecksumCold,
    StoreAlone(Direction),
    CopyAndStore(Direction),
    /// Copy and store along the runs of the shape with this number.
    SaveRuns(usize),
    /// The same of a load that delivers as this one does.
    LoadRuns(usize, Delivery),
    /// Copy and store, every file flushed.
    Flushed,
    /// A save of the shape of this number.
    PipelineSave(usize),
    /// A load of it.
    PipelineLoad(usize, Delivery),
    /// The pipeline over a store that flushes every object, as it does by default.
    PipelineFlushed,
}

/// Runs one measurement.
type Work<'a> = Box<dyn FnMut() -> Result<Duration> + 'a>;

/// One thing to measure.
pub(crate) struct Row<'a> {
    pub(crate) subject: Subject,
    pub(crate) name: String,
    /// Threads of a plain loop.
    pub(crate) threads: Option<usize>,
    pub(crate) work: Work<'a>,
}

/// The plain loops over objects: direction, whether bytes are copied too, bytes of a call, whether files are reserved first.
const LOOPS: [(Direction, bool, usize, bool); 14] = [
    (Direction::Save, false, 2 << 20, false),
    (Direction::Save, false, 2 << 20, true),
    (Direction::Save, false, OBJECT_BYTES, false),
    (Direction::Save, true, 512 << 10, false),
    (Direction::Save, true, 512 << 10, true),
    (Direction::Save, true, 1 << 20, false),
    (Direction::Save, true, 1 << 20, true),
    (Direction::Save, true, 2 << 20, false),
    (Direction::Save, true, 2 << 20, true),
    (Direction::Load, false, 1 << 20, false),
    (Direction::Load, false, OBJECT_BYTES, false),
    (Direction::Load, true, 512 << 10, false),
    (Direction::Load, true, 1 << 20, false),
    (Direction::Load, true, 2 << 20, false),
];

/// Whether a loop is measured with fewer threads than there are: one of each kind, to see what a thread does alone. The ceiling is that of all
/// threads, for which every piece is tried.
fn shows_one_thread((_, copy, piece, reserve): (Direction, bool, usize, bool)) -> bool {
    !reserve && (piece == 1 << 20 || !copy && piece == 2 << 20)
}

/// Every plain loop with as many threads as there are, and some with one.
pub(crate) fn ceilings<'a>(ceilings: &'a RefCell<Ceilings>, most: usize, flushed: bool) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for threads in 1..=most {
        let mut add = |subject, name: String, work: Work<'a>| {
            rows.push(Row { subject, name, threads: Some(threads), work });
        };
        for (piece, name) in [(OBJECT_BYTES, "copy, an object at a time"), (usize::MAX, "copy, all at once")]
        {
            add(Subject::Copy, name.into(), Box::new(move || ceilings.borrow_mut().copy(threads, piece)));
        }
        let hot = Box::new(move || ceilings.borrow_mut().checksum_hot(threads));
        add(Subject::ChecksumHot, "CRC, hot 1 MiB".into(), hot);
        let cold = Box::new(move || ceilings.borrow_mut().checksum_cold(threads));
        add(Subject::ChecksumCold, "CRC, cold".into(), cold);
        let wanted = LOOPS.into_iter().filter(|how| threads == most || shows_one_thread(*how));
        for (direction, copy, piece, reserve) in wanted {
            let how = Loop { threads, piece, copy, cold: false, reserve, flush: false };
            let (subject, what) = if copy {
                (Subject::CopyAndStore(direction), "copy + store")
            } else {
                (Subject::StoreAlone(direction), "store alone")
            };
            let reserved = if reserve { ", reserved" } else { "" };
            let name = format!("{} {what}, {} KiB pieces{reserved}", direction.name(), piece >> 10);
            add(subject, name, Box::new(move || plain(ceilings, direction, how)));
        }
        let how = Loop { threads, piece: 1 << 20, copy: true, cold: true, reserve: false, flush: false };
        let name = "load copy past the cache + store, 1024 KiB pieces".into();
        let work = Box::new(move || plain(ceilings, Direction::Load, how));
        add(Subject::CopyAndStore(Direction::Load), name, work);
        if flushed {
            let how = Loop { threads, piece: 2 << 20, copy: true, cold: false, reserve: true, flush: true };
            let work = Box::new(move || plain(ceilings, Direction::Save, how));
            add(Subject::Flushed, "save copy + store + fsync, 2048 KiB, reserved".into(), work);
        }
    }
    rows
}

fn plain(ceilings: &RefCell<Ceilings>, direction: Direction, how: Loop) -> Result<Duration> {
    match direction {
        Direction::Save => ceilings.borrow_mut().save(how),
        Direction::Load => ceilings.borrow_mut().load(how),
    }
}

/// The plain loops that do the work of a shape, with the threads that there are.
pub(crate) fn same_runs<'a>(
    ceilings: &'a RefCell<Ceilings>,
    threads: usize,
    shape: usize,
    runs: &'a SameRuns,
) -> Vec<Row<'a>> {
    let row = |subject, what: &str, work: Work<'a>| Row {
        subject,
        name: format!("{what}, runs of {}", SHAPES[shape].name),
        threads: Some(threads),
        work,
    };
    let load = |delivery, how| -> Work<'a> {
        Box::new(move || ceilings.borrow_mut().load_runs(threads, runs, delivery, how))
    };
    let mut rows = Vec::new();
    for piece in RUNS_PIECES {
        let in_pieces = format!("{} KiB pieces", piece >> 10);
        let save = Box::new(move || ceilings.borrow_mut().save_runs(threads, runs, piece));
        rows.push(row(Subject::SaveRuns(shape), &format!("save copy + CRC + store, {in_pieces}"), save));
        for (stores, how) in [(Stores::Memcpy, ""), (Stores::Cold, " past the cache")] {
            for (delivery, what) in [(Delivery::WholeChunk, "load whole"), (Delivery::AsVerified, "load")] {
                let name = format!("{what}, store + CRC + copy{how}, {in_pieces}");
                rows.push(row(Subject::LoadRuns(shape, delivery), &name, load(delivery, (stores, piece))));
            }
        }
    }
    rows
}

/// Names of the rows of a shape.
pub(crate) fn names(shape: usize) -> [String; 3] {
    ["save", "load, whole chunks,", "load, as verified,"].map(|what| format!("{what} {}", SHAPES[shape].name))
}

/// Save and both kinds of load of one engine.
pub(crate) fn pipeline<'a>(runtime: &'a Runtime, engine: &'a RefCell<Engine>, shape: usize) -> Vec<Row<'a>> {
    let row = |subject, name: String, work: Work<'a>| Row { subject, name, threads: None, work };
    let load = |delivery| -> Work<'a> { Box::new(move || engine.borrow_mut().load(runtime, delivery)) };
    let [save, whole, verified] = names(shape);
    let pipeline_load = |delivery, name| row(Subject::PipelineLoad(shape, delivery), name, load(delivery));
    vec![
        row(Subject::PipelineSave(shape), save, Box::new(move || warm_save(runtime, engine))),
        pipeline_load(Delivery::WholeChunk, whole),
        pipeline_load(Delivery::AsVerified, verified),
    ]
}

/// A save of an engine whose store flushes.
pub(crate) fn flushed<'a>(runtime: &'a Runtime, engine: &'a RefCell<Engine>, name: &str) -> Row<'a> {
    Row {
        subject: Subject::PipelineFlushed,
        name: format!("save with fsync (the default), {name}"),
        threads: None,
        work: Box::new(move || warm_save(runtime, engine)),
    }
}

/// Saves twice and tells how long the second time took, as [`Ceilings::save`] does. Whatever is measured next finds no more in the store.
fn warm_save(runtime: &Runtime, engine: &RefCell<Engine>) -> Result<Duration> {
    let mut engine = engine.borrow_mut();
    engine.save(runtime)?;
    let took = engine.save(runtime)?;
    engine.clear(runtime)?;
    Ok(took)
}
