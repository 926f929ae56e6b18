//! Registration: the one unsafe step, after which an engine's memory is in the care of the pipeline.

use std::ops::Range;
use std::sync::Arc;

use kv_device::{DeviceRegion, RegisteredMemory};
use kv_format::{Geometry, Namespace, Replica, Scales, TensorKind};

use crate::{Error, ErrorKind, Pipeline, Result};

/// An engine's KV memory with its geometry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registered {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    memory: Arc<dyn RegisteredMemory>,
    geometries: Geometries,
    slices: Vec<u32>,
}

/// How a rank's memory is laid out: a geometry for each KV group of the namespace, all over the same regions. A model with one group
/// needs no list: a [`Geometry`] becomes one by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometries(Vec<Geometry>);

impl From<Geometry> for Geometries {
    fn from(geometry: Geometry) -> Self {
        Self(vec![geometry])
    }
}

impl From<Vec<Geometry>> for Geometries {
    fn from(mut geometries: Vec<Geometry>) -> Self {
        geometries.sort_by_key(|geometry| geometry.group);
        Self(geometries)
    }
}

impl Pipeline {
    /// Takes charge of an engine's KV memory: one geometry for each KV group, one region for each of the geometries'.
    ///
    /// # Errors
    /// * [`Invalid`](ErrorKind::Invalid) if the regions are not as many or as long as the geometries say, or not the device's; if two
    ///   geometries describe one group or overlap.
    /// * [`Incompatible`](ErrorKind::Incompatible) naming what differs if a geometry does not fit the namespace (dtype, scales, rope
    ///   pairing, layers, heads, head dims), a KV group is missing, or the rank's parallelism was not planned in its slice table.
    ///
    /// # Safety
    /// The caller promises, until [`Registered::close`] has returned:
    /// * every region stays allocated at its address with its length, on the pipeline's device;
    /// * from the start of a save until its `finish` or `cancel` has returned, nothing writes the tokens that it names (after its
    ///   fence was reached);
    /// * from the start of a load until its `finish` or `cancel` has returned, nothing reads or writes the blocks that it names,
    ///   except layers that `next_layer` has announced. A load that was merely dropped goes on until `close`.
    pub unsafe fn register(
        &self,
        geometries: impl Into<Geometries>,
        regions: Vec<DeviceRegion>,
    ) -> Result<Registered> {
        let geometries = geometries.into();
        let first = geometries.0.first().ok_or_else(|| Error::invalid("no geometry was given"))?;
        let lens: Vec<u64> = regions.iter().map(|region| region.len).collect();
        if lens != first.regions {
            return Err(Error::invalid(format!(
                "regions of {lens:?} bytes were given, but the geometry has regions of {:?} bytes",
                first.regions
            )));
        }
        Geometry::check_together(&geometries.0)?;
        for geometry in &geometries.0 {
            check(&self.core.namespace, geometry)?;
        }
        let held = self.core.namespace.slices().held_by_rank(&geometries.0)?;
        let slices = held.into_iter().map(|(index, _)| index).collect();
        // SAFETY: the caller's promise covers what the device asks for: allocation until `close`, and no conflicting access while a
        // gather or scatter runs, since those run only between the start of an operation and its end.
        let memory = unsafe { self.core.device.register(regions) }?;
        Ok(Registered { inner: Arc::new(Inner { memory, geometries, slices }) })
    }
}

impl Registered {
    /// How the memory is laid out, by KV group.
    pub fn geometries(&self) -> &[Geometry] {
        &self.inner.geometries.0
    }

    /// How the memory of one KV group is laid out.
    pub fn geometry(&self, group: u32) -> Option<&Geometry> {
        self.geometries().iter().find(|geometry| geometry.group == group)
    }

    /// From the first layer of the model that the rank holds to behind its last.
    pub fn layers(&self) -> Range<u32> {
        let bounds = || self.geometries().iter().map(|geometry| geometry.layers.bounds());
        let start = bounds().map(|layers| layers.start).min().unwrap_or(0);
        start..bounds().map(|layers| layers.end).max().unwrap_or(start)
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

    /// Whether the engine has scales that are fixed for every token.
    pub(crate) fn has_static_scales(&self) -> bool {
        self.geometries().iter().any(|geometry| geometry.kinds().any(|kind| geometry.is_static(kind)))
    }

    /// Which of the holders of a slice this rank is.
    pub(crate) fn replica(&self, namespace: &Namespace, slice: u32) -> Replica {
        let group = namespace.slices().slices().get(slice as usize).map(|slice| slice.group);
        group.and_then(|group| self.geometry(group)).map_or(Replica::ONLY, |geometry| geometry.replica)
    }

    pub(crate) fn memory(&self) -> &dyn RegisteredMemory {
        &*self.inner.memory
    }
}

/// Whether the engine's KV is what the namespace describes.
fn check(namespace: &Namespace, geometry: &Geometry) -> Result<()> {
    let differ = |what: &str, engine: String, stored: String| {
        Err(Error::new(
            ErrorKind::Incompatible,
            format!("the engine's {what} is {engine}, but the namespace has {stored}"),
        ))
    };
    let (Some(group), Some(dtype)) = (namespace.group(geometry.group), namespace.group_dtype(geometry.group))
    else {
        let groups = namespace.model().groups.len();
        return differ("KV group", geometry.group.to_string(), format!("{groups} groups"));
    };
    if geometry.dtype != dtype {
        return differ("dtype", geometry.dtype.name().into(), dtype.name().into());
    }
    if geometry.scales != group.scales {
        let text = |scales: Option<Scales>| scales.map_or("none".to_owned(), |scales| scales.to_string());
        return differ("form of scales", text(geometry.scales), text(group.scales));
    }
    if geometry.rope != namespace.model().rope_pairing {
        return differ(
            "rope pairing",
            geometry.rope.name().into(),
            namespace.model().rope_pairing.name().into(),
        );
    }
    let engine: Vec<_> = geometry.kinds().map(|kind| (kind, geometry.dim(kind))).collect();
    if engine != group.tensors() {
        return differ(
            "list of tensors with head dims",
            format!("{engine:?}"),
            format!("{:?}", group.tensors()),
        );
    }
    if geometry.layers.intersection(&group.layers) != geometry.layers {
        return differ("set of layers", geometry.layers.to_string(), group.layers.to_string());
    }
    if geometry.heads.end > group.kv_heads {
        return differ(
            "range of KV heads",
            format!("{:?}", geometry.heads),
            format!("{} heads", group.kv_heads),
        );
    }
    let chunk = namespace.chunk_tokens();
    if geometry.kinds().any(|kind| kind == TensorKind::State) && geometry.block_tokens != chunk {
        return differ(
            "distance from state to state in tokens",
            geometry.block_tokens.to_string(),
            format!("one state for each chunk of {chunk} tokens"),
        );
    }
    Ok(())
}
