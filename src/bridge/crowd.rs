//! How many connections a bridge has, and from where: so many in all, and of one source; how often somebody may come; and who is
//! no guest yet, and makes room for whom comes next.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::AbortHandle;

use crate::base::{Budget, Time};
use crate::limits::{
    BRIDGE_CONNECTIONS_MAX, BRIDGE_CONNECTIONS_PER_SOURCE_MAX, BRIDGE_GREETINGS_BURST,
    BRIDGE_GREETINGS_PER_SECOND, BRIDGE_GREETINGS_PER_SOURCE_BURST, BRIDGE_GREETINGS_PER_SOURCE_PER_SECOND,
    BRIDGE_SOURCES_MAX,
};

/// Counts by source.
#[derive(Clone, Default)]
pub(super) struct Crowd(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// A place in it, for as long as it lives.
pub(super) struct Place {
    crowd: Crowd,
    of: IpAddr,
}

/// What one operator has at least: an IPv4 address, an IPv6 /56.
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::from(ip.to_bits() >> 72 << 72).into(),
    }
}

impl Crowd {
    /// A place for somebody, if there is one.
    pub(super) fn enter(&self, ip: IpAddr) -> Option<Place> {
        self.enter_within(ip, BRIDGE_CONNECTIONS_MAX, BRIDGE_CONNECTIONS_PER_SOURCE_MAX)
    }

    /// A place for a connection by which anybody may come: a web server of this host brings everybody, and those that it names are
    /// counted as guests.
    pub(super) fn enter_as_anybody(&self, ip: IpAddr) -> Option<Place> {
        self.enter_within(ip, BRIDGE_CONNECTIONS_MAX, BRIDGE_CONNECTIONS_MAX)
    }

    fn enter_within(&self, ip: IpAddr, most: usize, of_one: usize) -> Option<Place> {
        let of = source(ip);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.values().sum::<usize>() >= most || counts.get(&of).is_some_and(|count| *count >= of_one) {
            return None;
        }
        *counts.entry(of).or_default() += 1;
        Some(Place { crowd: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

/// How often somebody may come: each greeting costs signatures and a key exchange, on the thread that carries everything.
#[derive(Default)]
pub(super) struct Pace {
    all: Budget,
    sources: BTreeMap<IpAddr, Budget>,
}

impl Pace {
    /// Whether somebody may come now, a time since any beginning.
    pub(super) fn admit(&mut self, now: Time, ip: IpAddr) -> bool {
        let of = source(ip);
        let (rate, burst) = (BRIDGE_GREETINGS_PER_SOURCE_PER_SECOND, BRIDGE_GREETINGS_PER_SOURCE_BURST);
        if !self.sources.contains_key(&of) && self.sources.len() >= BRIDGE_SOURCES_MAX {
            self.sources.retain(|_, budget| !budget.is_full(rate, now));
            if self.sources.len() >= BRIDGE_SOURCES_MAX {
                return false;
            }
        }
        let mut own = self.sources.get(&of).copied().unwrap_or_default();
        // Whoever is refused because of the others has lost nothing of its own, nor the others of theirs.
        let may = own.take(1, rate, burst, now)
            && self.all.take(1, BRIDGE_GREETINGS_PER_SECOND, BRIDGE_GREETINGS_BURST, now);
        if may {
            self.sources.insert(of, own);
        }
        may
    }
}

/// Connections that are no guests yet, eldest first.
#[derive(Clone, Default)]
pub(super) struct Strangers(Arc<Mutex<(u64, BTreeMap<u64, AbortHandle>)>>);

/// One of them: until it is dropped, its task may be ended to make room.
pub(super) struct Stranger {
    among: Strangers,
    number: u64,
}

impl Strangers {
    /// A number for the next.
    pub(super) fn enter(&self) -> Stranger {
        let mut strangers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.0 += 1;
        Stranger { among: self.clone(), number: strangers.0 }
    }

    /// Its task is this; the eldest ends if there are more than `most`. How many ended.
    pub(super) fn begin(&self, number: u64, task: AbortHandle, most: usize) -> u64 {
        let mut strangers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.1.insert(number, task);
        let mut ended = 0;
        while strangers.1.len() > most {
            let Some((_, eldest)) = strangers.1.pop_first() else { break };
            eldest.abort();
            ended += 1;
        }
        ended
    }
}

impl Stranger {
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.among.0.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_source_has_its_share_and_gives_it_back() {
        let crowd = Crowd::default();
        let enter = |text: &str| crowd.enter_within(ip(text), 5, 2);
        let first = enter("2001:db8::1").expect("room");
        let second = enter("2001:db8:0:1::2").expect("room");
        assert!(enter("2001:db8:0:ff::3").is_none(), "one /56");
        let others = [enter("2001:db8:0:100::1"), enter("192.0.2.1"), enter("::ffff:192.0.2.1")];
        assert!(others.iter().all(Option::is_some));
        assert!(enter("192.0.2.9").is_none(), "all of it is taken");
        drop(first);
        let back = enter("2001:db8::3").expect("given back");
        drop((second, others, back));
        assert!(crowd.0.lock().expect("unpoisoned").is_empty());
    }

    /// Only how many were there at once was bounded: who came and went had a core of this host for handshakes.
    #[test]
    fn one_source_comes_so_often_and_the_others_do_not_notice() {
        let mut pace = Pace::default();
        let second = |n: u64| Time::from_millis(1000 * n);
        let came = |pace: &mut Pace, now: Time, text: &str| {
            (0..1000).filter(|_| pace.admit(now, ip(text))).count() as u32
        };
        assert_eq!(came(&mut pace, second(1), "192.0.2.1"), BRIDGE_GREETINGS_PER_SOURCE_BURST);
        assert_eq!(came(&mut pace, second(1), "2001:db8::1"), BRIDGE_GREETINGS_PER_SOURCE_BURST);
        assert_eq!(came(&mut pace, second(1), "2001:db8:0:ff::1"), 0, "one /56");
        assert_eq!(came(&mut pace, second(2), "192.0.2.1"), BRIDGE_GREETINGS_PER_SOURCE_PER_SECOND);
    }

    #[test]
    fn all_together_come_so_often_and_what_is_kept_of_them_is_bounded() {
        let mut pace = Pace::default();
        let each = |pace: &mut Pace, now: u64| {
            let now = Time::from_millis(1000 * now);
            (0..5000u32).filter(|n| pace.admit(now, std::net::Ipv4Addr::from(*n).into())).count() as u32
        };
        assert_eq!(each(&mut pace, 100), BRIDGE_GREETINGS_BURST);
        for second in 101..200 {
            assert_eq!(each(&mut pace, second), BRIDGE_GREETINGS_PER_SECOND);
            assert!(pace.sources.len() <= BRIDGE_SOURCES_MAX);
        }
        // Whoever is refused because of the others has lost nothing of its own.
        assert!(pace.sources.len() < 100, "{}", pace.sources.len());
    }

    #[test]
    fn the_eldest_stranger_makes_room() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let strangers = Strangers::default();
            let come = || {
                let own = strangers.enter();
                let number = own.number();
                let task = tokio::spawn(async move {
                    let _own = own;
                    std::future::pending::<()>().await;
                });
                assert!(strangers.begin(number, task.abort_handle(), 2) <= 1);
                task
            };
            let (first, second, third) = (come(), come(), come());
            assert!(first.await.is_err_and(|error| error.is_cancelled()));
            assert!(!second.is_finished() && !third.is_finished());
            second.abort();
            assert!(second.await.is_err());
            assert_eq!(strangers.0.lock().expect("unpoisoned").1.len(), 1);
        });
    }
}
