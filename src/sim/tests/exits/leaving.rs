//! Circuits through relays that leave.

use super::*;

#[test]
fn a_relay_leaves_and_not_a_packet_is_lost() {
    for seed in 80..92 {
        let mut net = six(seed);
        let leaver = relay_in_use(&mut net);
        written(&mut net, 4);
        let (mut lost, mut sources) = (0, std::collections::BTreeSet::new());
        net.command(leaver, Command::Leave(Some(30_000)));
        let gone_at = net.now + Duration::from_secs(30);
        let mut turn = 0u32;
        while net.now < gone_at + Duration::from_secs(20) {
            if net.now >= gone_at && net.nodes[leaver].is_up() {
                assert_ne!(relay_in_use(&mut net), leaver, "seed {seed}");
                written(&mut net, 4);
                net.stop(leaver);
            }
            turn += 1;
            let (source, came_back) = echoed(&mut net, turn.to_be_bytes());
            sources.extend(source);
            lost += u32::from(!came_back);
        }
        assert_eq!((lost, sources.len()), (0, 1), "seed {seed}, without {leaver}: {:?}", warnings(&net, 0));
        assert_eq!(counter(&mut net, 0, "circuit_silent"), 0, "seed {seed}");
        assert!(counter(&mut net, 0, "circuits_opened") >= 2, "seed {seed}");
    }
}

/// Relays that are no friends of the origin are heard of by friends of both, who are believed as far as new circuits go.
#[test]
fn a_relay_at_second_hand_leaves_and_new_circuits_are_led_around_it() {
    for seed in 95..99 {
        let mut net = Net::new(seed, 6, LinkConfig::clean(millis(15)));
        // 0 knows 1 and 2; these know 3, 4 and 5, of which 4 is the exit.
        let friends: [&[usize]; 6] =
            [&[1, 2], &[0, 3, 4, 5], &[0, 3, 4, 5], &[1, 2, 4], &[1, 2, 3, 5], &[1, 2, 4]];
        exit(&mut net, 4, &["0.0.0.0/0"]);
        for (node, friends) in friends.iter().enumerate() {
            net.befriend(node, friends);
        }
        net.run_for(Duration::from_secs(15));
        let relayed = |net: &mut Net| [3, 5].map(|node| counts(net, "circuit_cells_forward")[node]);
        want(&mut net, 3, false);
        net.run_for(Duration::from_secs(5));
        let before = relayed(&mut net);
        let Some(leaver) = [3, 5].into_iter().zip(before).find(|(_, cells)| *cells > 0).map(|(node, _)| node)
        else {
            // Both friends are on its path: nobody at second hand.
            continue;
        };
        let path =
            |net: &mut Net| super::super::overlay::status(net, 0, 1).circuit.expect("it is wanted").path;
        let before = path(&mut net);
        net.command(leaver, Command::Leave(Some(60_000)));
        net.run_for(Duration::from_secs(20));
        assert_eq!(path(&mut net), before, "seed {seed}: others' word moves no circuit");
        net.command(0, Command::Circuit(None));
        net.run_for(Duration::from_secs(1));
        want(&mut net, 3, false);
        net.run_for(Duration::from_secs(5));
        written(&mut net, 4);
        let before = counts(&mut net, "circuit_cells_forward")[leaver];
        for _ in 0..10 {
            send(&mut net, 0, 0, &datagram(client(FAR[0]), FAR[0], b"around"));
            net.run_for(Duration::from_millis(200));
            assert_eq!(written(&mut net, 4).len(), 1, "seed {seed}");
        }
        assert_eq!(counts(&mut net, "circuit_cells_forward")[leaver], before, "seed {seed}");
    }
}
