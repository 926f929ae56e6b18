//! What a launch tells the kernels: nests, runs and sections as words, and how many threads work on them.
//!
//! A dense buffer of the device holds the sections one behind the other; a transfer is one launch between the engine's memory and that
//! buffer, and one copy between the buffer and staging.

use kv_device::{DeviceRegion, Error, ErrorKind, Result};
use kv_format::{Nest, TensorKind, Transfer};

/// Threads of a workgroup, as in `kernels/gather_scatter.hip`.
pub(crate) const THREADS: u32 = 256;
/// Units that one thread moves before another part of the grid is worth it.
const UNITS_PER_THREAD: u64 = 4;
/// Most dims of a nest: token, head and element, each split once.
const DIMS: usize = 6;
/// Words of a nest and of a run.
const NEST_WORDS: usize = 4 + 3 * DIMS;
const RUN_WORDS: usize = 3;
/// Sections begin at multiples of this in the dense buffer, so that the widest accesses fit.
const ALIGNMENT: u64 = 256;

/// The tables of one transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// Nests, runs, sections, as the kernels read them.
    words: Vec<u64>,
    nests: usize,
    runs: usize,
    /// Bytes of the dense buffer.
    pub(crate) dense_bytes: u64,
    /// Each section that holds bytes: offset in the dense buffer, offset in staging, length.
    pub(crate) sections: Vec<(u64, u64, u64)>,
    grid: [u32; 3],
}

/// The arguments of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) grid: [u32; 3],
    pub(crate) arguments: [u64; 5],
}

/// The runs of one kind in the tables.
struct Placed {
    kind: TensorKind,
    first: u64,
    count: u64,
}

impl Program {
    /// The tables of a transfer whose bounds were checked; `None` if it moves nothing.
    pub(crate) fn new(device: &str, transfer: &Transfer, regions: &[DeviceRegion]) -> Result<Option<Self>> {
        let plan = &transfer.plan;
        let mut sections = Vec::new();
        let (mut dense_bytes, mut most) = (0_u64, 0_u64);
        let (mut nest_words, mut run_words, mut section_words) = (Vec::new(), Vec::new(), Vec::new());
        let mut placed: Vec<Placed> = Vec::new();
        for place in &transfer.sections {
            let len = plan.section_bytes(place.kind);
            let Some(region) = regions.get(place.region as usize).filter(|_| len > 0) else { continue };
            if !placed.iter().any(|known| known.kind == place.kind) {
                let bases = transfer.sections.iter().filter(|other| other.kind == place.kind);
                let bases = bases
                    .filter_map(|other| Some(regions.get(other.region as usize)?.address + other.device));
                let alignment = bases.fold(ALIGNMENT, |all, base| all | base);
                let before = nest_words.len() / NEST_WORDS;
                let first = run_words.len() / RUN_WORDS;
                for (index, nest) in (0_u32..).zip(plan.nests(place.kind)) {
                    let runs = plan.runs(place.kind).iter().filter(|run| run.nest == index);
                    let alignment = runs.fold(alignment, |all, run| all | run.device | run.section);
                    most = most.max(push_nest(device, &mut nest_words, nest, alignment)?);
                }
                for run in plan.runs(place.kind) {
                    run_words.extend([run.device, run.section, before as u64 + u64::from(run.nest)]);
                }
                let count = (run_words.len() / RUN_WORDS - first) as u64;
                placed.push(Placed { kind: place.kind, first: first as u64, count });
            }
            let Some(runs) = placed.iter().find(|known| known.kind == place.kind) else { continue };
            section_words.extend([region.address + place.device, dense_bytes, runs.first, runs.count]);
            sections.push((dense_bytes, place.staging, len));
            // Sections that are neighbours in staging stay neighbours, so that one copy takes both.
            dense_bytes += if len.is_multiple_of(16) { len } else { len.next_multiple_of(ALIGNMENT) };
        }
        let widest = placed.iter().map(|placed| placed.count).max().unwrap_or(0);
        if sections.is_empty() || widest == 0 {
            return Ok(None);
        }
        let parts = most.div_ceil(u64::from(THREADS) * UNITS_PER_THREAD).clamp(1, 1024);
        let dim = |count: u64| {
            u32::try_from(count).map_err(|_| {
                let message = format!("a transfer of {count} runs or sections in one call: split it");
                Error::new(ErrorKind::Unsupported, device, message)
            })
        };
        let grid = [dim(widest)?, dim(sections.len() as u64)?, dim(parts)?];
        let (nests, runs) = (nest_words.len(), run_words.len());
        let words = [nest_words, run_words, section_words].concat();
        Ok(Some(Self { words, nests, runs, dense_bytes, sections, grid }))
    }

    /// Bytes of the tables.
    pub(crate) fn bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    /// Writes the tables into memory that the kernels read.
    pub(crate) fn write(&self, to: &mut [u8]) {
        for (to, word) in to.chunks_exact_mut(size_of::<u64>()).zip(&self.words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// The launch with the tables at one address and the dense buffer at another.
    pub(crate) fn launch(&self, tables: u64, dense: u64) -> Launch {
        let words = |count: usize| (count * size_of::<u64>()) as u64;
        let (runs, sections) = (tables + words(self.nests), tables + words(self.nests + self.runs));
        Launch { grid: self.grid, arguments: [tables, runs, sections, dense, u64::from(self.grid[2])] }
    }
}

/// Adds a nest all of whose addresses are multiples of what `alignment` is a multiple of; its units.
fn push_nest(device: &str, words: &mut Vec<u64>, nest: &Nest, alignment: u64) -> Result<u64> {
    let unsupported = |message: String| Error::new(ErrorKind::Unsupported, device, message);
    if nest.dims.len() > DIMS {
        return Err(unsupported(format!(
            "runs repeat over {} dims: the kernels know {DIMS}",
            nest.dims.len()
        )));
    }
    let strides = nest
        .dims
        .iter()
        .fold(alignment | nest.run_bytes, |all, dim| all | dim.device_stride | dim.section_stride);
    let width = 1_u64 << strides.trailing_zeros().min(4);
    let per_run = nest.run_bytes / width;
    let runs = nest.dims.iter().try_fold(1_u64, |all, dim| all.checked_mul(u64::from(dim.count)));
    let units = runs.and_then(|runs| runs.checked_mul(per_run)).filter(|units| *units <= u64::from(u32::MAX));
    let units = units.ok_or_else(|| {
        unsupported(format!(
            "one block's part of a section has more than {} units of {width} bytes",
            u32::MAX
        ))
    })?;
    words.extend([width, per_run, units, nest.dims.len() as u64]);
    for dim in &nest.dims {
        words.extend([u64::from(dim.count), dim.device_stride, dim.section_stride]);
    }
    words.resize(words.len().next_multiple_of(NEST_WORDS), 0);
    Ok(units)
}
