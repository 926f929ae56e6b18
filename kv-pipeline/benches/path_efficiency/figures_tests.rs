//! Tests of what the benchmark calculates with, as a target of their own: a benchmark without harness runs none.

mod figures;

use figures::{Spread, Verdict, in_turns, ratio};

#[test]
fn the_median_is_in_the_middle_whatever_the_order() {
    let odd = Spread::of(&[3.0, 100.0, 1.0]).unwrap();
    assert_eq!(odd, Spread { median: 3.0, min: 1.0, max: 100.0 });
    assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 8.0]).unwrap().median, 3.0);
    assert_eq!(Spread::of(&[7.0]).unwrap(), Spread { median: 7.0, min: 7.0, max: 7.0 });
    assert_eq!(Spread::of(&[]), None);
    assert_eq!(odd.to_string(), "3.00 (1.00-100.00)");
}

#[test]
fn things_are_measured_there_and_back_and_the_first_round_is_dropped() {
    let mut order = Vec::new();
    let samples = in_turns(2, 3, |round, thing| {
        order.push((round, thing));
        u32::try_from(10 * round + thing).map(f64::from)
    })
    .unwrap();
    assert_eq!(order, [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0), (2, 0), (2, 1), (2, 2)]);
    assert_eq!(samples, [[10.0, 20.0], [11.0, 21.0], [12.0, 22.0]]);
}

#[test]
fn a_failure_ends_the_rounds() {
    let mut calls = 0;
    let outcome = in_turns(5, 2, |_, thing| {
        calls += 1;
        if thing == 1 { Err("broken") } else { Ok(1.0) }
    });
    assert_eq!((outcome, calls), (Err("broken"), 2));
}

#[test]
fn a_target_is_met_or_below_or_out_of_reach() {
    assert_eq!(Verdict::of(21.0, 25.0, 20.0), Verdict::Met);
    assert_eq!(Verdict::of(20.0, 19.0, 20.0), Verdict::Met, "met is met, whatever the plain loop did");
    assert_eq!(Verdict::of(19.0, 25.0, 20.0), Verdict::Below);
    assert_eq!(Verdict::of(15.0, 19.9, 20.0), Verdict::OutOfReach);
    assert_eq!(Verdict::OutOfReach.to_string(), "out of reach here");
}

#[test]
fn a_slow_round_cancels_out_of_a_ratio() {
    let halves = ratio(&[5.0, 0.5, 4.0], &[10.0, 1.0, 8.0]).unwrap();
    assert_eq!(halves, Spread { median: 0.5, min: 0.5, max: 0.5 });
    assert_eq!(ratio(&[], &[1.0]), None);
}
