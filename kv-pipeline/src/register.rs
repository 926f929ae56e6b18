//! Registration: the one unsafe step, after which an engine's memory is in the care of the pipeline.

use std::sync::Arc;

use kv_device::{DeviceRegion, RegisteredMemory};
use kv_format::{Geometry, Namespace};

use crate::{Error, ErrorKind, Pipeline, Result};

/// An engine's KV memory with its geometry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registered {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    memory: Arc<dyn RegisteredMemory>,
    geometry: Geometry,
    slices: Vec<u32>,
}

impl Pipeline {
    /// Takes charge of an engine's KV memory: one region for each of the geometry's.
    ///
    /// # Errors
    /// * [`Invalid`](ErrorKind::Invalid) if the regions are not as many or as long as the geometry says, or not the device's.
    /// * [`Incompatible`](ErrorKind::Incompatible) naming what differs if the geometry does not fit the namespace (dtype, rope
    ///   pairing, layers, heads, head dims), or the rank's parallelism was not planned in its slice table.
    ///
    /// # Safety
    /// The caller promises, until [`Registered::close`] has returned:
    /// * every region stays allocated at its address with its length, on the pipeline's device;
    /// * from the start of a save until its `finish` or `cancel` has returned, nothing writes the tokens that it names (after its
    ///   fence was reached);
    /// * from the start of a load until its `finish` or `cancel` has returned, nothing reads or writes the blocks that it names,
    ///   except layers that `next_layer` has announced. A load that was merely dropped goes on until `close`.
    pub unsafe fn register(&self, geometry: Geometry, regions: Vec<DeviceRegion>) -> Result<Registered> {
        let lens: Vec<u64> = regions.iter().map(|region| region.len).collect();
        if lens != geometry.regions {
            return Err(Error::invalid(format!(
                "regions of {lens:?} bytes were given, but the geometry has regions of {:?} bytes",
                geometry.regions
            )));
        }
        check(&self.core.namespace, &geometry)?;
        let slices =
            self.core.namespace.slices().held_by(&geometry)?.into_iter().map(|(index, _)| index).collect();
        // SAFETY: the caller's promise covers what the device asks for: allocation until `close`, and no conflicting access while a
        // gather or scatter runs, since those run only between the start of an operation and its end.
        let memory = unsafe { self.core.device.register(regions) }?;
        Ok(Registered { inner: Arc::new(Inner { memory, geometry, slices }) })
    }
}

impl Registered {
    /// How the memory is laid out.
    pub fn geometry(&self) -> &Geometry {
        &self.inner.geometry
    }

    /// Indices of the slices that this rank holds.
    pub fn slices(&self) -> &[u32] {
        &self.inner.slices
    }

    /// Refuses further transfers and waits for the last one. After it the engine may free its memory.
    ///
    /// It waits as long as the device takes: bound it by a timeout, keep the memory if that passes, and call it again.
    ///
    /// # Errors
    /// [`Device`](ErrorKind::Device) if the device can no longer tell: the memory must then outlive the process.
    ///
    /// # Cancel safety
    /// Cancel safe: may be called again.
    pub async fn close(&self) -> Result<()> {
        Ok(self.inner.memory.close().await?)
    }

    pub(crate) fn memory(&self) -> &dyn RegisteredMemory {
        &*self.inner.memory
    }
}

/// Whether the engine's KV is what the namespace describes.
fn check(namespace: &Namespace, geometry: &Geometry) -> Result<()> {
    let group = namespace.group(0).ok_or_else(|| Error::invalid("the namespace has no KV group"))?;
    let differ = |what: &str, engine: String, stored: String| {
        Err(Error::new(
            ErrorKind::Incompatible,
            format!("the engine's {what} is {engine}, but the namespace has {stored}"),
        ))
    };
    if geometry.dtype != namespace.dtype() {
        return differ("dtype", geometry.dtype.name().into(), namespace.dtype().name().into());
    }
    if geometry.rope != namespace.model().rope_pairing {
        return differ(
            "rope pairing",
            geometry.rope.name().into(),
            namespace.model().rope_pairing.name().into(),
        );
    }
    let (engine, stored) = ((geometry.key_dim, geometry.value_dim), (group.key_dim, group.value_dim));
    if engine != stored {
        return differ("pair of head dims (K, V)", format!("{engine:?}"), format!("{stored:?}"));
    }
    if geometry.layers.start < group.layers.start || geometry.layers.end > group.layers.end {
        return differ("layer range", format!("{:?}", geometry.layers), format!("{:?}", group.layers));
    }
    if geometry.heads.end > group.kv_heads {
        return differ(
            "range of KV heads",
            format!("{:?}", geometry.heads),
            format!("{} heads", group.kv_heads),
        );
    }
    Ok(())
}
