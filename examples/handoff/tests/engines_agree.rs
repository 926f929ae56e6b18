//! The engine's promise: the same bits, whatever the batching, the threads, the parallelism and the paging.

#![expect(clippy::unwrap_used, reason = "functions that only tests call")]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use handoff::cluster::hub::in_process;
use handoff::cluster::link::Link;
use handoff::cluster::stop::Stop;
use handoff::engine::blocks::BlockTable;
use handoff::engine::cache::PagedCache;
use handoff::engine::collective::{Alone, Collective};
use handoff::engine::flavour::{Flavour, Part};
use handoff::engine::math::argmax;
use handoff::engine::memory::{CacheMemory, VecMemory};
use handoff::engine::rank_model::RankModel;
use handoff::engine::sequence::Sequence;
use handoff::engine::shard::Shard;
use handoff::model::ModelChoice;
use handoff::model::seeded::Heads;

const STEPS: usize = 6;
const BOTH: [Flavour; 2] = [Flavour::AmdLike, Flavour::GaudiLike];

fn prompt(length: usize) -> Vec<u32> {
    (0..251u32).map(|index| index * 37 % 251).cycle().take(length).collect()
}

fn sequence(flavour: Flavour, rank: usize, tp: usize, threads: usize, seed: u64) -> Sequence {
    let source = ModelChoice::Seeded(Heads::default()).weights().unwrap();
    let shard = Shard::new(source.config(), rank, tp).unwrap();
    let model = Arc::new(RankModel::load(source, shard, threads, true).unwrap());
    let blocks = BlockTable::scattered(flavour, 300, seed);
    let shape = model.cache_shape();
    let memory = Arc::new(VecMemory::new(&shape.regions(flavour, &blocks)));
    Sequence::new(model, PagedCache::new(flavour, shape, blocks, memory).unwrap())
}

/// The bits of the logits after the prompt and after some answer tokens; empty on ranks without a head.
fn run(sequence: &mut Sequence, prompt: &[u32], chunk: usize, peers: &mut dyn Collective) -> Vec<Vec<u32>> {
    let mut steps = Vec::new();
    let mut logits = sequence.prefill(prompt, chunk, peers).unwrap();
    for _ in 0..STEPS {
        let token = logits.as_ref().map_or(0, |logits| argmax(logits) as u64);
        steps.extend(logits.map(|logits| logits.iter().map(|logit| logit.to_bits()).collect()));
        let token = peers.broadcast(&token.to_le_bytes()).unwrap();
        let token = u64::from_le_bytes(token.try_into().unwrap());
        logits = sequence.decode(u32::try_from(token).unwrap(), peers).unwrap();
    }
    steps
}

fn alone(flavour: Flavour, threads: usize, seed: u64, chunk: usize) -> Vec<Vec<u32>> {
    run(&mut sequence(flavour, 0, 1, threads, seed), &prompt(150), chunk, &mut Alone)
}

#[test]
fn chunks_threads_and_paging_change_no_bit() {
    let expected = alone(Flavour::AmdLike, 1, 1, 1);
    assert_eq!(expected.len(), STEPS);
    assert!(expected.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()));
    for flavour in BOTH {
        for (threads, seed, chunk) in [(1, 1, 1), (1, 2, 7), (2, 3, 64), (3, 4, 96), (2, 5, 150)] {
            assert_eq!(
                alone(flavour, threads, seed, chunk),
                expected,
                "{flavour:?}, {threads} threads, block seed {seed}, chunks of {chunk}"
            );
        }
    }
}

#[test]
fn tensor_parallelism_changes_no_bit() {
    let expected = alone(Flavour::AmdLike, 1, 1, 64);
    for flavour in BOTH {
        for tp in [1, 3, 9] {
            let ends = in_process(tp, Duration::from_secs(60)).unwrap();
            let ranks: Vec<_> = ends
                .into_iter()
                .enumerate()
                .map(|(rank, end)| {
                    thread::spawn(move || {
                        let patience = Duration::from_secs(60);
                        let mut peers =
                            Link::start(end, Stop::default(), patience).unwrap().as_rank(rank, tp);
                        run(&mut sequence(flavour, rank, tp, 1, 8), &prompt(150), 64, &mut peers)
                    })
                })
                .collect();
            let mut results = ranks.into_iter().map(|rank| rank.join().unwrap());
            assert_eq!(results.next().unwrap(), expected, "{flavour:?}, TP {tp}");
            assert!(results.all(|steps| steps.is_empty()), "only the leader has a head");
        }
    }
}

#[test]
fn the_answer_depends_on_every_part_of_the_cache() {
    let tokens = prompt(40);
    let expected = run(&mut sequence(Flavour::GaudiLike, 0, 1, 1, 1), &tokens, 64, &mut Alone);
    for layer in 0..4 {
        for part in [Part::K, Part::V] {
            let mut damaged = sequence(Flavour::GaudiLike, 0, 1, 1, 1);
            damaged.prefill(&tokens[..39], 64, &mut Alone).unwrap();
            let mut row: Vec<f32> = (0..3)
                .flat_map(|head| damaged.cache().read(layer, part, head, 8).split_off(7 * 16))
                .collect();
            row[20] += 1.0;
            damaged.cache().write(layer, part, 7, &row);
            assert_ne!(run(&mut damaged, &tokens[39..], 64, &mut Alone), expected, "layer {layer} {part:?}");
        }
    }
}

#[test]
fn loaded_tokens_are_as_good_as_computed_ones() {
    let tokens = prompt(150);
    let expected = alone(Flavour::AmdLike, 1, 1, 64);
    let mut producer = sequence(Flavour::AmdLike, 0, 1, 1, 1);
    producer.prefill(&tokens, 64, &mut Alone).unwrap();
    let mut consumer = sequence(Flavour::GaudiLike, 0, 1, 1, 2);
    for layer in 0..4 {
        for part in [Part::K, Part::V] {
            for token in 0..149 {
                let row: Vec<f32> = (0..3)
                    .flat_map(|head| {
                        producer.cache().export(layer, part, head, token + 1).split_off(token * 16)
                    })
                    .map(|bits| half::bf16::from_bits(bits).to_f32())
                    .collect();
                consumer.cache().write(layer, part, token, &row);
            }
        }
    }
    consumer.adopt_loaded(149).unwrap();
    assert_eq!(run(&mut consumer, &tokens[149..], 64, &mut Alone), expected);
    let counters = consumer.counters();
    assert_eq!((counters.loaded, counters.prefilled, counters.decoded), (149, 1, STEPS));
    assert!(consumer.adopt_loaded(1).is_err(), "too late to adopt");
}

#[test]
fn what_is_written_is_what_is_exported_and_the_rest_is_nan() {
    for flavour in BOTH {
        let sequence = sequence(flavour, 0, 1, 1, 9);
        let cache = sequence.cache();
        let row: Vec<f32> = (0..48u8).map(f32::from).collect();
        for token in [0, 15, 16, 127, 128, 299] {
            cache.write(2, Part::V, token, &row);
            for head in 0..3 {
                let values: Vec<f32> = cache
                    .export(2, Part::V, head, token + 1)
                    .split_off(token * 16)
                    .into_iter()
                    .map(|bits| half::bf16::from_bits(bits).to_f32())
                    .collect();
                assert_eq!(values, row[head * 16..][..16]);
                assert_eq!(cache.read(2, Part::V, head, token + 1)[token * 16..], row[head * 16..][..16]);
            }
        }
        let unused = cache.export(2, Part::K, 0, 1);
        assert!(unused.iter().all(|bits| half::bf16::from_bits(*bits).is_nan()));
        let written = 6 * 48;
        let mut not_nan = 0;
        cache.memory().with(5, &mut |bytes| {
            let values = bytes.as_chunks::<2>().0.iter();
            not_nan = values.filter(|bits| !half::bf16::from_le_bytes(**bits).is_nan()).count();
        });
        assert_eq!(not_nan, written);
    }
}

#[test]
fn memory_of_the_wrong_size_is_refused() {
    let good = sequence(Flavour::AmdLike, 0, 1, 1, 1);
    let (shape, blocks) = (good.cache().shape(), good.cache().blocks().clone());
    let memory: Arc<dyn CacheMemory> = Arc::new(VecMemory::new(&[64; 8]));
    let error = PagedCache::new(Flavour::AmdLike, shape, blocks, memory).err().unwrap().to_string();
    assert!(error.contains("expected"), "{error}");
}
