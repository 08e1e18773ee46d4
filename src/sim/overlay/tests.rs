//! The runs of docs/overlay.md, small.

use std::time::Duration;

use super::scenarios::{bootstrap, eclipse, flash_crowd, hostile, partition, steady};
use super::{Settings, World};
use crate::overlay::Manner;

#[test]
fn lookups_succeed_while_half_of_the_network_is_replaced_per_hour() {
    let report = steady(200, 400, Duration::from_secs(1200), Settings::new(1));
    for (row, values) in &report.rows {
        assert!(values[1] >= 99.0, "{row}: {values:?}");
        assert!(values[6] <= 2000.0, "{row}: {values:?}");
    }
    let cold = report.get("near-first, cold", "bytes").expect("a row");
    let warm = report.get("near-first, warm", "bytes").expect("a row");
    assert!(warm < 5_000.0 && cold < 20_000.0, "{warm} {cold}");
}

#[test]
fn a_fifth_of_liars_is_borne() {
    let report = hostile(300, 100, 0.2, Settings::new(2));
    for (row, values) in &report.rows {
        assert!(values[1] >= 97.0, "{row}: {values:?}");
    }
}

#[test]
fn an_attacker_as_strong_as_all_others_censors_nothing() {
    let report = eclipse(300, 40, &[1.0], 1.0, Settings::new(3));
    assert!(report.rows[0].1[1] >= 97.0, "{:?}", report.rows);
}

#[test]
fn a_flash_crowd_is_borne_by_all_when_it_comes_from_far() {
    let far = flash_crowd(300, Manner::Far { stride: 1 }, Settings::new(4));
    let near = flash_crowd(300, Manner::Near, Settings::new(4));
    let most = |report: &super::scenarios::Report| report.rows[0].1[6];
    assert!(far.rows[0].1[0] >= 99.0 && near.rows[0].1[0] >= 99.0);
    assert!(most(&far) < most(&near) / 4.0, "{} {}", most(&far), most(&near));
}

#[test]
fn what_was_parted_becomes_one_within_five_minutes() {
    let report = partition(100, Settings::new(5));
    assert_eq!(report.get("after an hour apart", "found from the other side, %"), Some(0.0));
    let together = |column| report.get("minute 5 together", column).expect("a row");
    assert!(together("nearest 8 known, %") > 97.0 && together("found from the other side, %") >= 99.0);
}

#[test]
fn two_friends_are_enough_to_enter() {
    let report = bootstrap(200, Settings::new(6));
    let after = |column| report.get("60 s", column).expect("a row");
    assert!(after("nearest 8 known, %") > 97.0 && after("reached, %") > 99.0);
}

#[test]
fn the_same_seed_is_the_same_world() {
    let run = |seed| {
        let mut world = World::new(Settings::new(seed));
        world.grow(60, Duration::from_secs(60), 0.0, super::hostile::Role::Honest);
        (world.tally.messages, world.tally.bytes)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
