//! The runs of docs/overlay.md, small.

use std::time::Duration;

use super::attacks::{ROLES, eclipse, flood, hostile, join};
use super::scenarios::{bootstrap, flash_crowd, partition, publishing, steady};
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

/// A fifth of the nodes.
fn bear(which: &[usize], seed: u64) -> super::scenarios::Report {
    let roles: Vec<_> = which.iter().map(|at| ROLES[*at]).collect();
    let report = hostile(300, 120, 0.2, &roles, Settings::new(seed));
    let rows = report.rows.iter();
    let (found, all) = rows.fold((0.0, 0.0), |(found, all), (row, values)| {
        assert!(values[1] >= 96.0, "{row}: {values:?}");
        (found + values[0] * values[1] / 100.0, all + values[0])
    });
    assert!(found / all >= 0.99, "{found} of {all}: {:?}", report.rows);
    report
}

#[test]
fn a_fifth_that_is_silent_or_lies_is_borne() {
    bear(&[0, 1], 2);
}

#[test]
fn a_fifth_that_steers_is_borne() {
    bear(&[2], 2);
}

/// Found by measuring: 92 % of far-first lookups succeeded, and nearly all of the others met keepers that had the record and told
/// of floods' instead.
#[test]
fn a_fifth_that_forges_is_borne() {
    bear(&[4], 2);
}

#[test]
fn a_fifth_that_gives_false_addresses_is_borne_and_aims_little_at_its_victim() {
    let report = bear(&[3, 5], 2);
    // "… named N times and had M first flights in 20 minutes".
    let number = |word: &str| {
        let at = report.title.find(word).expect("it says so") + word.len();
        let digits: String = report.title[at..]
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse::<f64>().expect("a number")
    };
    let (named, flights) = (number("was named"), number("and had"));
    assert!(named > 1_000.0, "{}", report.title);
    // Six of a node in ten minutes, whatever it is told; and far fewer than it is told.
    assert!(flights <= 240.0 * 6.0 * 3.0 && flights < named / 4.0, "{}", report.title);
}

#[test]
fn a_flood_of_throw_away_identities_displaces_nobody() {
    // From twelve networks, which leave the provider one place of sixteen: some answers do not tell of it. From sixteen on, whoever outranks it has
    // that place, if nobody provides the key before.
    let report = flood(200, 40, &[12], Settings::new(3));
    for (row, values) in &report.rows {
        assert!(values[0] >= 200.0, "{row}: {values:?}");
        let least = if row.contains("before") { 60.0 } else { 99.0 };
        assert!(values[2] >= least, "{row}: {values:?}");
    }
}

#[test]
fn who_enters_among_attackers_finds_what_there_is() {
    let report = join(300, 50, &[2.0], Settings::new(4));
    for (row, values) in &report.rows {
        // Of 50; with 200 lookups it was 92 to 93 % at three times the honest power (docs/overlay.md).
        assert!(values[4] >= 88.0, "{row}: {values:?}");
    }
}

#[test]
fn clocks_that_are_wrong_by_ten_minutes_harm_nobody() {
    let settings = Settings { skew: Duration::from_secs(295), ..Settings::new(5) };
    let report = steady(200, 200, Duration::from_secs(600), settings);
    for (row, values) in &report.rows {
        assert!(values[1] >= 99.0, "{row}: {values:?}");
    }
}

#[test]
fn a_publisher_of_many_chunks_keeps_its_budget_and_its_promise() {
    let report = publishing(60, 3_000, Settings::new(6));
    let get = |column| report.get("first time", column).expect("a row");
    assert!(get("chunks an hour") > 500_000.0, "{:?}", report.rows);
    assert!(get("nodes that keep each") > 12.0 && get("kept by nobody") == 0.0, "{:?}", report.rows);
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
