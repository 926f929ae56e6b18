//! FP8 flavours against tables that ml_dtypes made, and the rules of recoding.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use kv_format::flavour::{Change, Changes, Flavour, Lossy, Recode, Run};
use kv_format::kernels::Destination;
use kv_format::{Dtype, ErrorKind, ScaleDirection};
use proptest::prelude::*;

/// The tables by their heading; `tests/golden/fp8/generate.py` says what they hold.
fn golden() -> BTreeMap<String, Vec<&'static str>> {
    let mut tables: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    let mut heading = String::new();
    for line in include_str!("golden/fp8/tables.txt").lines().filter(|line| !line.starts_with('#')) {
        if ["values ", "recode ", "changes "].iter().any(|word| line.starts_with(word)) {
            heading = line.to_owned();
            assert!(tables.insert(heading.clone(), Vec::new()).is_none(), "{heading} stands twice");
        } else {
            tables.get_mut(&heading).unwrap().extend(line.split(' '));
        }
    }
    assert!(tables.values().all(|items| items.len() == 256));
    tables
}

fn name(flavour: Flavour) -> &'static str {
    flavour.dtype().name()
}

fn pairs() -> impl Iterator<Item = (Flavour, Flavour)> {
    let all = || Flavour::ALL.into_iter();
    all().flat_map(move |from| all().map(move |to| (from, to))).filter(|(from, to)| from != to)
}

/// NaN equals NaN, and -0 is not +0.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

#[test]
fn every_code_of_every_flavour_is_worth_what_ml_dtypes_says() {
    let golden = golden();
    for flavour in Flavour::ALL {
        let values = &golden[&format!("values {}", name(flavour))];
        for (code, bits) in (0..=u8::MAX).zip(values) {
            let value = f32::from_bits(u32::from_str_radix(bits, 16).unwrap());
            assert!(same(flavour.value(code), value), "{} {code:#04x}", name(flavour));
            assert_eq!(flavour.is_nan(code), value.is_nan());
            assert!(value.is_nan() || value.is_infinite() || value.abs() <= flavour.largest());
        }
        assert_eq!(Flavour::try_from(flavour.dtype()).unwrap(), flavour);
    }
    assert_eq!(Flavour::try_from(Dtype::Int8).unwrap_err().kind(), ErrorKind::Invalid);
}

//= SPEC.md#flavour-recode
#[test]
fn every_code_of_every_pair_becomes_what_ml_dtypes_says() {
    let golden = golden();
    let mut compared = 0;
    for (from, to) in pairs() {
        for (large, lossy) in [("saturate", Lossy::Saturate), ("overflow", Lossy::Overflow)] {
            let recode = Recode::lossy(from, to, lossy);
            let heading = format!("recode {} {} {} {large}", name(from), name(to), recode.scale_factor());
            let codes = golden.get(&heading).unwrap_or_else(|| panic!("no table {heading:?}"));
            for (code, wanted) in (0..=u8::MAX).zip(codes) {
                let (new, wanted) =
                    (recode.codes()[usize::from(code)], u8::from_str_radix(wanted, 16).unwrap());
                // ml_dtypes gives a NaN the sign of its code even where that is no sign; which NaN is ours to say, below.
                assert!(
                    new == wanted || to.is_nan(new) && to.is_nan(wanted),
                    "{heading}: {code:#04x} became {new:#04x}, not {wanted:#04x}"
                );
                compared += 1;
            }
            let letters = &golden[&format!("changes {} {}", name(from), name(to))];
            for (code, letter) in (0..=u8::MAX).zip(letters) {
                let change = match *letter {
                    "." => Change::None,
                    "z" => Change::ZeroSign,
                    "r" => Change::Rounded,
                    "f" => Change::Flushed,
                    "l" => Change::TooLarge,
                    "i" => Change::Infinity,
                    other => panic!("change {other:?}"),
                };
                assert_eq!(recode.change(code), change, "{heading}: {code:#04x}");
            }
        }
    }
    assert_eq!(compared, 20 * 2 * 256);
    assert_eq!(golden.len(), 5 + 20 * 3);
}

/// value x scale is the same before and after, for every code whose change is `None`, and differs for every other.
#[test]
fn a_change_is_a_change_of_value_times_scale() {
    for (from, to) in pairs() {
        let recode = Recode::lossy(from, to, Lossy::Saturate);
        for code in 0..=u8::MAX {
            let new = to.value(recode.codes()[usize::from(code)]) * recode.scale_factor();
            let kept = same(from.value(code), new);
            assert_eq!(kept, recode.change(code) == Change::None, "{} {} {code:#04x}", name(from), name(to));
        }
    }
}

/// The codes that hardware documents fix, written out.
#[test]
fn e4m3fnuz_and_e4m3fn_share_all_codes_but_three() {
    let (fnuz, ocp) = (Flavour::E4m3Fnuz, Flavour::E4m3Fn);
    let there = Recode::lossy(fnuz, ocp, Lossy::Saturate);
    let back = Recode::lossy(ocp, fnuz, Lossy::Saturate);
    assert_eq!((there.scale_factor(), back.scale_factor()), (0.5, 2.0));
    for code in 0..=u8::MAX {
        let wanted = match code {
            0x80 => 0x7F,
            0x7F => 0x7E,
            0xFF => 0xFE,
            _ => code,
        };
        assert_eq!(there.codes()[usize::from(code)], wanted, "{code:#04x}");
        let wanted = match code {
            0x80 => 0x00,
            0x7F | 0xFF => 0x80,
            _ => code,
        };
        assert_eq!(back.codes()[usize::from(code)], wanted, "{code:#04x}");
        // There and back again: only -0 and the sign of NaN are lost.
        let round = there.codes()[usize::from(back.codes()[usize::from(code)])];
        let wanted = match code {
            0x80 => 0x00,
            0xFF => 0x7F,
            _ => code,
        };
        assert_eq!(round, wanted, "{code:#04x}");
    }
    let changed = |recode: &Recode| -> Vec<u8> {
        (0..=u8::MAX).filter(|code| recode.change(*code) != Change::None).collect()
    };
    assert_eq!(changed(&there), [0x7F, 0xFF]);
    assert_eq!(changed(&back), [0x80]);
}

#[test]
fn e5m2_loses_the_top_four_codes_and_gaudi2_sixteen_near_zero() {
    let codes = |recode: &Recode, codes: &[u8]| -> Vec<u8> {
        codes.iter().map(|code| recode.codes()[usize::from(*code)]).collect()
    };
    let there = Recode::lossy(Flavour::E5m2Fnuz, Flavour::E5m2, Lossy::Saturate);
    assert_eq!(
        codes(&there, &[0x7B, 0x7C, 0x7D, 0x7E, 0x7F, 0xFC, 0xFF, 0x80]),
        [0x7B, 0x7B, 0x7B, 0x7B, 0x7B, 0xFB, 0xFB, 0x7E]
    );
    let back = Recode::lossy(Flavour::E5m2, Flavour::E5m2Fnuz, Lossy::Saturate);
    assert_eq!(codes(&back, &[0x7B, 0x7C, 0xFC, 0x7D, 0xFF, 0x80]), [0x7B, 0x7F, 0xFF, 0x80, 0x80, 0x00]);
    let cast = Recode::lossy(Flavour::E5m2, Flavour::E5m2Fnuz, Lossy::Overflow);
    assert_eq!(codes(&cast, &[0x7B, 0x7C, 0xFC]), [0x7B, 0x80, 0x80]);

    for from in [Flavour::E4m3Fn, Flavour::E4m3Fnuz] {
        let recode = Recode::lossy(from, Flavour::E4m3Ieee, Lossy::Saturate);
        let changed: Vec<u8> = (0..=u8::MAX).filter(|code| recode.change(*code) != Change::None).collect();
        assert_eq!(changed, [1, 3, 5, 7, 9, 11, 13, 15, 129, 131, 133, 135, 137, 139, 141, 143]);
        // Never an infinity or a NaN from a number.
        assert!((0..=u8::MAX).all(|code| {
            from.is_nan(code) || Flavour::E4m3Ieee.value(recode.codes()[usize::from(code)]).is_finite()
        }));
    }
    let recode = Recode::lossy(Flavour::E4m3Fn, Flavour::E4m3Ieee, Lossy::Saturate);
    assert_eq!(codes(&recode, &[0x7E, 0xFE, 0x78, 0x7F, 0xFF, 0x80]), [0x76, 0xF6, 0x70, 0x7C, 0xFC, 0x80]);
    // What fits in e4m3-ieee comes back from either flavour as it was, but for -0 and infinities.
    for via in [Flavour::E4m3Fn, Flavour::E4m3Fnuz] {
        let there = Recode::lossy(Flavour::E4m3Ieee, via, Lossy::Saturate);
        for code in (0..0x78).chain(0x81..0xF8) {
            assert_eq!(there.change(code), Change::None, "{code:#04x}");
        }
    }
}

//= SPEC.md#flavour-lossless
#[test]
fn values_change_only_by_name_and_are_counted() {
    let (from, to) = (Flavour::E4m3Fnuz, Flavour::E4m3Fn);
    let mut bytes: Vec<u8> = (0..=u8::MAX).cycle().take(1000).collect();
    let before = bytes.clone();
    let error = Recode::lossless(from, to).in_place(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lossy);
    assert!(error.to_string().contains("7 of 1000 elements (7 too large)"), "{error}");
    assert!(bytes == before, "a refused conversion in place has changed something");

    let mut to_bytes = vec![0; bytes.len()];
    for destination in [Destination::Hot, Destination::Cold] {
        let error = Recode::lossless(from, to).copy(&bytes, &mut to_bytes, destination).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lossy);
    }
    let saturate = Recode::lossy(from, to, Lossy::Saturate);
    let changes = saturate.copy(&bytes, &mut to_bytes, Destination::Hot).unwrap();
    assert_eq!((changes.too_large, changes.total()), (7, 7));
    assert_eq!(saturate.count(&bytes), changes);
    assert_eq!(saturate.in_place(&mut bytes).unwrap(), changes);
    assert_eq!(bytes, to_bytes);
    assert_eq!(changes.to_string(), "7 too large");
    assert_eq!(Changes::default().to_string(), "none");

    // The sign of zero has a permission of its own, which permits nothing else.
    let zero_sign = Recode::lossy(Flavour::E5m2, Flavour::E5m2Fnuz, Lossy::ZeroSign);
    assert_eq!(zero_sign.in_place(&mut [0x80, 0x00, 0x80, 0x7B]).unwrap().zero_sign, 2);
    let mut infinite = [0x80, 0x7C];
    let error = zero_sign.in_place(&mut infinite).unwrap_err();
    assert!(error.to_string().contains("changes 1 of 2 elements (1 -0 to +0, 1 infinite)"), "{error}");
    assert_eq!(infinite, [0x80, 0x7C]);
    assert!(zero_sign.copy(&[0x80], &mut [0], Destination::Cold).is_ok());

    // A NaN stays a NaN and is no change; a flavour to itself is not even that.
    assert_eq!(Recode::lossless(from, to).in_place(&mut [0x80]).unwrap().total(), 0);
    for flavour in Flavour::ALL {
        let same = Recode::lossless(flavour, flavour);
        let mut all: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(same.in_place(&mut all).unwrap(), Changes::default());
        assert!(all.into_iter().eq(0..=u8::MAX));
    }

    // Scattered pieces: the same rules, and nothing outside of the slices.
    let run = |from, to| Run { from, to };
    let mut blocks = [9; 6];
    let counted = saturate.copy_runs(
        &[0x38, 0x7F, 0x39, 0x3A],
        &mut blocks,
        &[run(0, 4), run(2, 0)],
        2,
        Destination::Cold,
    );
    assert_eq!((counted.unwrap().total(), blocks), (1, [0x39, 0x3A, 9, 9, 0x38, 0x7E]));
    let error = Recode::lossless(from, to)
        .copy_runs(&[0x7F; 4], &mut blocks, &[run(0, 0), run(2, 2)], 2, Destination::Hot)
        .unwrap_err();
    assert!(error.to_string().contains("changes 4 of 4 elements"), "{error}");
    for bad in [run(3, 0), run(0, 5), run(usize::MAX, 0), run(0, usize::MAX)] {
        let before = blocks;
        let error =
            saturate.copy_runs(&[0; 4], &mut blocks, &[run(0, 0), bad], 2, Destination::Cold).unwrap_err();
        assert_eq!((error.kind(), blocks), (ErrorKind::Invalid, before), "{bad:?}");
    }
    let short = saturate.copy(&[1, 2], &mut [0], Destination::Cold).unwrap_err();
    assert_eq!(short.kind(), ErrorKind::Invalid);
}

//= SPEC.md#flavour-recode
#[test]
fn scales_are_exact_or_refused() {
    let half = Recode::lossless(Flavour::E4m3Fnuz, Flavour::E4m3Fn);
    let double = Recode::lossless(Flavour::E4m3Fn, Flavour::E4m3Fnuz);
    let same = Recode::lossless(Flavour::E4m3Ieee, Flavour::E4m3Fn);
    let (multiplier, divider) = (ScaleDirection::Multiply, ScaleDirection::Divide);
    let tiny = f32::MIN_POSITIVE;
    for (recode, direction, scale, wanted) in [
        (&half, multiplier, 0.3, Some(0.15)),
        (&half, divider, 0.3, Some(0.6)),
        (&double, multiplier, 0.3, Some(0.6)),
        (&double, divider, 0.3, Some(0.15)),
        (&half, multiplier, 0.0, Some(0.0)),
        (&half, multiplier, 2.0 * tiny, Some(tiny)),
        (&half, multiplier, tiny, None),
        (&half, multiplier, f32::from_bits(1), None),
        (&double, multiplier, tiny / 2.0, Some(tiny)),
        (&double, multiplier, tiny / 4.0, None),
        (&same, multiplier, f32::from_bits(1), Some(f32::from_bits(1))),
        (&double, multiplier, f32::MAX / 2.0, Some(f32::MAX)),
        (&double, multiplier, f32::MAX, None),
        (&half, divider, f32::MAX, None),
        (&same, multiplier, f32::MAX, Some(f32::MAX)),
        (&same, divider, 0.0, None),
        (&same, multiplier, -0.0, None),
        (&same, multiplier, -1.0, None),
        (&same, multiplier, f32::NAN, None),
        (&same, multiplier, f32::INFINITY, None),
    ] {
        let found = recode.scale(direction, scale);
        assert_eq!(found.as_ref().ok().copied(), wanted, "{recode:?} {direction:?} {scale:e}: {found:?}");
        assert!(found.map_or_else(|error| error.kind() == ErrorKind::Invalid, |_| true));
    }
    let mut scales = [1.0, 2.0, f32::NAN, 4.0];
    let error = half.scales(multiplier, &mut scales).unwrap_err();
    assert!(error.to_string().starts_with("scale 2 of 4: "), "{error}");
    assert_eq!((scales[0], scales[1], scales[3]), (1.0, 2.0, 4.0), "all or none");

    // As they stand in a section: 0.3 and 3 as f32, then 0.30078125 and 3 as bf16.
    let mut section = [0.3_f32.to_le_bytes(), 3_f32.to_le_bytes()].concat();
    half.scale_section(divider, Dtype::F32, &mut section).unwrap();
    assert_eq!(section, [0.6_f32.to_le_bytes(), 6_f32.to_le_bytes()].concat());
    let mut section = [0x9A, 0x3E, 0x40, 0x40];
    half.scale_section(multiplier, Dtype::Bf16, &mut section).unwrap();
    assert_eq!(section, [0x1A, 0x3E, 0xC0, 0x3F]);
    let mut bad = [0x9A, 0x3E, 0xC0, 0x7F];
    let error = half.scale_section(multiplier, Dtype::Bf16, &mut bad).unwrap_err();
    assert!(error.to_string().starts_with("scale 1 of 2: "), "{error}");
    assert_eq!(bad, [0x9A, 0x3E, 0xC0, 0x7F], "all or none");
    for (dtype, len) in [(Dtype::F16, 4), (Dtype::F32, 6), (Dtype::Bf16, 3), (Dtype::E4m3Fn, 4)] {
        let error = half.scale_section(multiplier, dtype, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{dtype:?}");
    }
}

/// A flavour and another.
fn any_pair() -> impl Strategy<Value = (Flavour, Flavour)> {
    prop::sample::select(pairs().collect::<Vec<_>>())
}

proptest! {
    /// Per-(token, head) scales: every element that is not counted as changed is worth the same as before, to the bit.
    #[test]
    fn scaled_elements_survive_every_conversion(
        (from, to) in any_pair(),
        tokens in 1..20_usize,
        heads in 1..5_usize,
        dim in 1..80_usize,
        seed in any::<u64>(),
        divides in any::<bool>(),
    ) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()
        };
        let elements: Vec<u8> = (0..tokens * heads * dim).map(|_| next()[7]).collect();
        // A mantissa of 24 bits, so that a scale which was rounded would show.
        let scales: Vec<f32> = (0..tokens * heads)
            .map(|_| f32::from_bits(0x3880_0001 | u32::from_le_bytes([0, next()[5], next()[6] & 0x3F, 0])))
            .collect();
        let direction = if divides { ScaleDirection::Divide } else { ScaleDirection::Multiply };
        let worth = |flavour: Flavour, elements: &[u8], scales: &[f32]| -> Vec<f64> {
            let rows = elements.chunks(dim).zip(scales);
            rows.flat_map(|(row, scale)| row.iter().map(move |code| {
                let (value, scale) = (f64::from(flavour.value(*code)), f64::from(*scale));
                if divides { value / scale } else { value * scale }
            })).collect()
        };
        let recode = Recode::lossy(from, to, Lossy::Saturate);
        let (mut recoded, mut rescaled) = (elements.clone(), scales.clone());
        let changes = recode.in_place(&mut recoded).unwrap();
        recode.scales(direction, &mut rescaled).unwrap();
        let (before, after) = (worth(from, &elements, &scales), worth(to, &recoded, &rescaled));
        let mut changed = 0;
        for ((before, after), code) in before.iter().zip(&after).zip(&elements) {
            let same = before.to_bits() == after.to_bits() || before.is_nan() && after.is_nan();
            prop_assert_eq!(same, recode.change(*code) == Change::None, "{:#04x}: {} became {}", code, before, after);
            changed += u64::from(!same);
        }
        prop_assert_eq!(changes.total(), changed);
        let mut copied = vec![0; elements.len()];
        prop_assert_eq!(recode.copy(&elements, &mut copied, Destination::Cold).unwrap(), changes);
        prop_assert_eq!(copied, recoded);
    }
}
