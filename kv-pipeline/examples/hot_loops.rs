//! The hot loops one by one, as often as is asked: what `cargo xtask test --only instructions` counts the instructions of.
//!
//! `hot_loops LOOP TIMES` runs one; `hot_loops` lists them.

#![expect(clippy::print_stdout, reason = "a program for people and xtask")]

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use kv_device::{Device, HostAllocation, HostDevice, HostDeviceOptions, RegisteredMemory, TransferRequest};
use kv_format::reference::builder;
use kv_format::{
    AttentionParts, Checksum, Dtype, Geometry, LayerPlan, Namespace, ObjectHeader, ObjectIdentity,
    ObjectLayout, PagingLayout, Replica, RopePairing, SectionPlace, TensorBase, TensorKind, Transfer, chunks,
};
use kv_memory::HostBuf;

type Error = Box<dyn std::error::Error>;
type HotLoop = fn(u32) -> Result<(), Error>;

/// Every loop by name.
const LOOPS: &[(&str, HotLoop)] = &[
    ("header", header),
    ("keys", keys),
    ("plan", plan),
    ("checksum", checksum),
    ("gather-token-major", |times| gather(times, &PagingLayout::token_major(16, 8, 128), 0..8)),
    ("gather-one-head", |times| gather(8 * times, &PagingLayout::token_major(16, 8, 128), 3..4)),
    ("gather-head-major", |times| gather(times, &PagingLayout::head_major(16, 8, 128), 0..8)),
    ("gather-x-packed", |times| gather(times, &PagingLayout::x_packed(16, 8, 128, 8), 0..8)),
    ("gather-transposed", |times| gather(times, &PagingLayout::transposed(16, 8, 128), 0..8)),
];

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, times] = &arguments[..] else {
        LOOPS.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let wanted = LOOPS.iter().find(|(known, _)| known == name);
    let (_, run) =
        wanted.ok_or_else(|| format!("no loop {name:?}; without arguments the loops are listed"))?;
    run(times.parse()?)
}

fn namespace() -> Result<Namespace, Error> {
    Ok(builder(80, 8, 128).tensor_parallel(&[1, 8]).build()?)
}

/// Encodes and decodes the header of 80 layers.
fn header(times: u32) -> Result<(), Error> {
    let namespace = namespace()?;
    let tokens = vec![7; 256];
    let chunk = chunks(&namespace, &tokens, &[])?.remove(0);
    let identity = ObjectIdentity::new(&namespace, &chunk, 0)?;
    let layout = ObjectLayout::new(&namespace, &identity.slice, 256)?;
    let checksums = vec![1; layout.sections.len()];
    let len = layout.object_len;
    let mut bytes = vec![0; usize::try_from(layout.header_len)?];
    let header = ObjectHeader { identity, layout, checksums, producer: "hot loops".into() };
    for _ in 0..times {
        header.encode(&mut bytes)?;
        black_box(ObjectHeader::decode(&bytes, len)?);
    }
    Ok(())
}

/// Keys of 4,096 tokens.
fn keys(times: u32) -> Result<(), Error> {
    let (namespace, tokens) = (namespace()?, vec![7; 4096]);
    for _ in 0..times {
        black_box(chunks(&namespace, &tokens, &[])?);
    }
    Ok(())
}

/// One rank of TP 1, block 16.
fn geometry(layout: &PagingLayout) -> Result<Geometry, Error> {
    Ok(Geometry::new(AttentionParts {
        dtype: Dtype::Bf16,
        rope: RopePairing::RotateHalf,
        layers: 0..1,
        heads: 0..8,
        replica: Replica::ONLY,
        key_dim: 128,
        value_dim: 128,
        block_tokens: 16,
        blocks: 16,
        key: *layout,
        value: *layout,
        tensors: vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 1, offset: 0 }],
        regions: vec![layout.block_stride * 16 * 2; 2],
    })?)
}

/// The plan of a chunk of 256 tokens, one head of eight.
fn plan(times: u32) -> Result<(), Error> {
    let geometry = geometry(&PagingLayout::token_major(16, 8, 128))?;
    let blocks: Vec<u32> = (0..16).rev().collect();
    for _ in 0..times {
        black_box(LayerPlan::new(&geometry, &blocks, 0..256, 3..4)?);
    }
    Ok(())
}

/// The checksum of 1 MiB.
fn checksum(times: u32) -> Result<(), Error> {
    let bytes = vec![7; 1 << 20];
    for _ in 0..times {
        black_box(Checksum::of(black_box(&bytes)));
    }
    Ok(())
}

/// One gather of K and V of 256 tokens and some of eight heads, 128 KiB a head, through the host device.
fn gather(times: u32, layout: &PagingLayout, heads: Range<u32>) -> Result<(), Error> {
    let geometry = geometry(layout)?;
    let device = HostDevice::new(HostDeviceOptions::default())?;
    let memory: Vec<HostAllocation> = geometry
        .regions
        .iter()
        .map(|len| Ok(device.allocate(usize::try_from(*len)?)?))
        .collect::<Result<_, Error>>()?;
    // SAFETY: the allocations outlive the registration, which is closed below.
    let registered: Arc<dyn RegisteredMemory> =
        unsafe { device.register(memory.iter().map(HostAllocation::region).collect()) }?;
    let blocks: Vec<u32> = (0..16).rev().collect();
    let plan = Arc::new(LayerPlan::new(&geometry, &blocks, 0..256, heads)?);
    let bytes = plan.section_bytes(TensorKind::Key);
    let place = |kind: TensorKind, region| SectionPlace {
        region,
        device: 0,
        staging: u64::from(region) * bytes,
        kind,
    };
    let sections = vec![place(TensorKind::Key, 0), place(TensorKind::Value, 1)];
    let transfer = Transfer { plan, sections };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let mut staging = HostBuf::allocate(usize::try_from(2 * bytes)?)?;
        for _ in 0..times {
            let request = TransferRequest {
                transfer: transfer.clone(),
                staging,
                after: None,
                fence_timeout: Duration::from_secs(60),
            };
            let (back, result) = registered.gather(request).await;
            result?;
            staging = back;
        }
        registered.close().await?;
        Ok(())
    })
}
