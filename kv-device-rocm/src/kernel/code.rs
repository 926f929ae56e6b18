//! Where the kernels' code comes from: committed code objects, or the run-time compiler.

use std::sync::Arc;

use kv_device::Result;

use crate::hip::{self, Function, Hip, Module};

/// The kernels' source, in HIP C++ without headers.
pub const SOURCE: &str = include_str!("../../kernels/gather_scatter.hip");

/// An ELF file where its words are aligned.
#[repr(align(4096))]
struct Aligned<T: ?Sized>(T);

static GFX942: &Aligned<[u8]> = &Aligned(*include_bytes!("../../kernels/gather_scatter.gfx942.hsaco"));
static GFX950: &Aligned<[u8]> = &Aligned(*include_bytes!("../../kernels/gather_scatter.gfx950.hsaco"));

/// Code objects that `cargo xtask kernels` has built from [`SOURCE`], by instruction set.
static COMMITTED: [(&str, &Aligned<[u8]>); 2] = [("gfx942", GFX942), ("gfx950", GFX950)];

/// The kernels of a device: (gather, scatter).
pub(crate) fn kernels(hip: &Arc<Hip>, arch: &str) -> Result<(Function, Function)> {
    let committed = COMMITTED.iter().find(|(known, _)| *known == arch);
    let module = match committed {
        Some((_, image)) => Module::load(hip, &image.0)?,
        None => Module::load(hip, &hip::compile(&hip.runtime, &hip.label, SOURCE, arch, hip.sabotage)?)?,
    };
    Ok((module.function(c"kv_gather")?, module.function(c"kv_scatter")?))
}
