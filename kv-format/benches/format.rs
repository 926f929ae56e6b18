//! What the format itself costs per chunk: headers, keys, plans. None of it touches payload, so all of it should vanish beside the
//! 10 MiB that a chunk of Llama-3.1-70B has per KV head.
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first error")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kv_format::reference::builder;
use kv_format::{
    AttentionParts, Dtype, Geometry, Granularity, LayerPlan, Movement, Namespace, ObjectHeader,
    ObjectIdentity, ObjectLayout, PagingLayout, RankPlan, Replica, RopePairing, TensorBase, chunks,
};

/// Layers, KV heads and elements of a head of Llama-3.1-70B.
const LAYERS: u32 = 80;
const HEADS: u32 = 8;
const DIM: u32 = 128;

fn llama() -> Namespace {
    builder(LAYERS, HEADS, DIM).tensor_parallel(&[1, 8]).build().unwrap()
}

/// The header of one head's slice of a chunk: 160 sections in two pages.
fn header() -> ObjectHeader {
    let namespace = llama();
    let tokens: Vec<u32> = (0..512).collect();
    let chunk = &chunks(&namespace, &tokens, &[]).unwrap()[1];
    let identity = ObjectIdentity::new(&namespace, chunk, 3).unwrap();
    let layout = ObjectLayout::new(&namespace, &identity.slice, identity.token_count).unwrap();
    let checksums = (0..).take(layout.sections.len()).collect();
    ObjectHeader { identity, layout, checksums, producer: "bench".into() }
}

fn headers(criterion: &mut Criterion) {
    let header = header();
    let mut bytes = vec![0; usize::try_from(header.layout.header_len).unwrap()];
    let object_len = header.layout.object_len;
    let mut group = criterion.benchmark_group("header of 160 sections");
    group.bench_function("encode", |bencher| bencher.iter(|| header.encode(black_box(&mut bytes)).unwrap()));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| ObjectHeader::decode(black_box(&bytes), object_len).unwrap());
    });
    group.finish();
}

fn keys(criterion: &mut Criterion) {
    let namespace = llama();
    let tokens: Vec<u32> = (0..131_072).collect();
    let mut group = criterion.benchmark_group("chunk keys");
    group.throughput(Throughput::Elements(tokens.len() as u64));
    group.bench_function("131,072 tokens", |bencher| {
        bencher.iter(|| chunks(&namespace, black_box(&tokens), &[]).unwrap());
    });
    group.finish();
}

/// One layer's runs of one chunk, from a sequence of 131,072 tokens in scattered blocks.
fn plans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("layer plan of a 256-token chunk");
    for (name, block, layout) in [
        ("token-major, block 16", 16, PagingLayout::token_major(16, HEADS, DIM)),
        ("head-major, block 16", 16, PagingLayout::head_major(16, HEADS, DIM)),
        ("x-packed, block 16", 16, PagingLayout::x_packed(16, HEADS, DIM, 8)),
        ("token-major, block 128", 128, PagingLayout::token_major(128, HEADS, DIM)),
    ] {
        let blocks = 131_072 / block;
        let bytes = layout.block_stride * u64::from(blocks) * 2;
        let geometry = Geometry::new(AttentionParts {
            dtype: Dtype::Bf16,
            rope: RopePairing::RotateHalf,
            layers: 0..1,
            heads: 0..HEADS,
            replica: Replica::ONLY,
            key_dim: DIM,
            value_dim: DIM,
            block_tokens: block,
            blocks,
            key: layout,
            value: layout,
            tensors: vec![TensorBase { region: 0, offset: 0 }, TensorBase { region: 1, offset: 0 }],
            regions: vec![bytes; 2],
        })
        .unwrap();
        // A multiplicative step is as good as a shuffle here: neighbours in the sequence are far apart in memory.
        let ids: Vec<u32> = (0..blocks).map(|block| block * 7919 % blocks).collect();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| LayerPlan::new(&geometry, black_box(&ids), 65_536..65_792, 3..4).unwrap());
        });
    }
    group.finish();
}

/// What a rank moves of a whole sequence: every chunk, every layer. And what a chunk's steps cost on top, when their turn comes.
fn rank_plans(criterion: &mut Criterion) {
    let namespace = llama();
    let tokens: Vec<u32> = (0..131_072).collect();
    let all = chunks(&namespace, &tokens, &[]).unwrap();
    let rows = Granularity::Rows { min_bytes: 512 };
    let mut group = criterion.benchmark_group("plan for 131,072 tokens x 80 layers");
    for (name, block, heads, layout, granularity) in [
        ("TP 1, token-major, block 16", 16, 8, PagingLayout::token_major(16, 8, DIM), Granularity::AnyRun),
        ("TP 1, x-packed, block 16", 16, 8, PagingLayout::x_packed(16, 8, DIM, 8), Granularity::AnyRun),
        ("TP 8, token-major, block 16", 16, 1, PagingLayout::token_major(16, 1, DIM), Granularity::AnyRun),
        ("TP 1, token-major, block 128, rows", 128, 8, PagingLayout::token_major(128, 8, DIM), rows),
        ("TP 8, token-major, block 128, rows", 128, 1, PagingLayout::token_major(128, 1, DIM), rows),
    ] {
        let blocks = 131_072 / block;
        let geometry = Geometry::new(AttentionParts {
            dtype: Dtype::Bf16,
            rope: RopePairing::RotateHalf,
            layers: 0..LAYERS,
            heads: 0..heads,
            replica: Replica::ONLY,
            key_dim: DIM,
            value_dim: DIM,
            block_tokens: block,
            blocks,
            key: layout,
            value: layout,
            tensors: (0..2 * LAYERS).map(|region| TensorBase { region, offset: 0 }).collect(),
            regions: vec![layout.block_stride * u64::from(blocks) * 2; 2 * LAYERS as usize],
        })
        .unwrap();
        let ids: Vec<u32> = (0..blocks).map(|block| block * 7919 % blocks).collect();
        let geometries = [geometry];
        let plan = || RankPlan::new(&namespace, &geometries, &all, &[&ids], 0..LAYERS, granularity).unwrap();
        group.bench_function(BenchmarkId::new("all", name), |bencher| bencher.iter(plan));
        let planned = plan();
        group.bench_function(BenchmarkId::new("steps of one chunk", name), |bencher| {
            bencher.iter(|| planned.steps(black_box(256), Movement::Save).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = format;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(1))
        .warm_up_time(std::time::Duration::from_millis(300));
    targets = headers, keys, plans, rank_plans
}
criterion_main!(format);
