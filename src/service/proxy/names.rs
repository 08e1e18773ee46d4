//! Names, asked for through the circuit (RFC 1035): the host's own resolver never hears of them. This asks again,
//! remembers, and says who waits for what.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::ports::Ports;
use crate::base::Time;
use crate::limits::{
    SOCKS_LOOKUPS_MAX, SOCKS_NAME_S_MAX, SOCKS_NAMES_MAX, SOCKS_QUESTION_MS, SOCKS_QUESTIONS_MAX,
    SOCKS_RESOLVERS_MAX,
};
use crate::wire::dns::{Answer, Family, answer, question};

const DNS_PORT: u16 = 53;

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// The configuration names no resolver.
    #[error("no resolver: set socks.dns")]
    NoResolver,
    /// As many are asked for as may be at once.
    #[error("too many names at once")]
    Busy,
    /// Nobody has that name, or it has no address.
    #[error("no such name")]
    NoName,
    /// No resolver answered.
    #[error("no answer")]
    Silence,
    /// The resolver could not, or would not, say.
    #[error("the resolver failed")]
    Failed,
}

/// A datagram to a resolver.
#[derive(Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The local port.
    pub port: u16,
    /// Where to.
    pub to: SocketAddr,
    /// The question.
    pub payload: Vec<u8>,
}

/// What became of a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Who asked.
    pub asker: u64,
    /// For what.
    pub name: String,
    /// Its addresses, at least one, those of IPv4 first.
    pub result: Result<Vec<IpAddr>, NoAddress>,
}

/// All names that somebody wants to know.
pub struct Names {
    resolvers: Vec<IpAddr>,
    known: BTreeMap<String, (Time, Vec<IpAddr>)>,
    lookups: BTreeMap<String, Lookup>,
    /// Questions without an answer, by local port.
    asked: BTreeMap<u16, Asked>,
    out: VecDeque<Outgoing>,
    found: VecDeque<Found>,
    questions: u64,
}

#[derive(Default)]
struct Lookup {
    askers: Vec<u64>,
    v4: Part,
    v6: Part,
}

#[derive(Default)]
enum Part {
    #[default]
    Asked,
    Is(Vec<IpAddr>, u32),
    Not(NoAddress),
}

struct Asked {
    name: String,
    family: Family,
    id: u16,
    resolver: SocketAddr,
    count: u32,
    due: Time,
}

impl Names {
    /// Asks these, in turn; the first few count.
    pub fn new(resolvers: &[IpAddr]) -> Self {
        Self {
            resolvers: resolvers.iter().take(SOCKS_RESOLVERS_MAX).copied().collect(),
            known: BTreeMap::new(),
            lookups: BTreeMap::new(),
            asked: BTreeMap::new(),
            out: VecDeque::new(),
            found: VecDeque::new(),
            questions: 0,
        }
    }

    /// How many questions were asked since this was last asked.
    pub fn take_questions(&mut self) -> u64 {
        std::mem::take(&mut self.questions)
    }

    /// Somebody wants a name's addresses.
    pub fn ask(&mut self, now: Time, name: &str, asker: u64, ports: &mut Ports) {
        let say = |result| Found { asker, name: name.to_owned(), result };
        if let Some((until, addresses)) = self.known.get(name)
            && now < *until
        {
            return self.found.push_back(say(Ok(addresses.clone())));
        }
        if let Some(lookup) = self.lookups.get_mut(name) {
            return lookup.askers.push(asker);
        }
        if self.resolvers.is_empty() {
            return self.found.push_back(say(Err(NoAddress::NoResolver)));
        }
        if self.lookups.len() >= SOCKS_LOOKUPS_MAX {
            return self.found.push_back(say(Err(NoAddress::Busy)));
        }
        self.lookups.insert(name.to_owned(), Lookup { askers: vec![asker], ..Lookup::default() });
        for family in [Family::V4, Family::V6] {
            self.question(now, name, family, 0, ports);
        }
    }

    /// Nobody need tell this one any more.
    pub fn forget(&mut self, asker: u64) {
        self.lookups.values_mut().for_each(|lookup| lookup.askers.retain(|other| *other != asker));
    }

    fn question(&mut self, now: Time, name: &str, family: Family, count: u32, ports: &mut Ports) {
        let id = ports.number();
        let Some((port, payload)) = ports.take().zip(question(id, name, family)) else {
            return self.answered(now, name, family, Part::Not(NoAddress::Failed), ports);
        };
        let resolver = self.resolvers[count as usize % self.resolvers.len()];
        let resolver = SocketAddr::new(resolver, DNS_PORT);
        let due = now + Duration::from_millis(SOCKS_QUESTION_MS);
        self.asked.insert(port, Asked { name: name.to_owned(), family, id, resolver, count, due });
        self.out.push_back(Outgoing { port, to: resolver, payload });
        self.questions += 1;
    }

    /// A datagram came to a port; false when it is none of these.
    pub fn heard(&mut self, now: Time, port: u16, from: SocketAddr, bytes: &[u8], ports: &mut Ports) -> bool {
        let Some(asked) = self.asked.get(&port) else { return false };
        if from == asked.resolver
            && let Some(part) = answer(bytes, asked.id, &asked.name, asked.family)
        {
            let part = match part {
                Answer::Is(addresses, seconds) => Part::Is(addresses, seconds),
                Answer::NoName => Part::Not(NoAddress::NoName),
                Answer::Failed => Part::Not(NoAddress::Failed),
            };
            let asked = self.asked.remove(&port).expect("it is there");
            ports.give(port);
            self.answered(now, &asked.name, asked.family, part, ports);
        }
        true
    }

    /// A question could not be delivered.
    pub fn undelivered(&mut self, now: Time, port: u16) {
        if let Some(asked) = self.asked.get_mut(&port) {
            asked.due = asked.due.min(now);
        }
    }

    fn answered(&mut self, now: Time, name: &str, family: Family, part: Part, ports: &mut Ports) {
        let Some(lookup) = self.lookups.get_mut(name) else { return };
        match family {
            Family::V4 => lookup.v4 = part,
            _ => lookup.v6 = part,
        }
        let result =
            match (&lookup.v4, &lookup.v6) {
                // The other family is a last resort: nobody waits for it.
                (Part::Is(v4, ttl), Part::Asked) if !v4.is_empty() => Ok((v4.clone(), *ttl)),
                // There is no name of one family and not of the other.
                (Part::Not(NoAddress::NoName), _) | (_, Part::Not(NoAddress::NoName)) => {
                    Err(NoAddress::NoName)
                }
                (Part::Asked, _) | (_, Part::Asked) => return,
                (Part::Is(v4, one), Part::Is(v6, other)) if v4.len() + v6.len() > 0 => {
                    Ok(([&v4[..], v6].concat(), *one.min(other)))
                }
                (Part::Is(..), Part::Is(..)) => Err(NoAddress::NoName),
                (Part::Is(one, ttl), Part::Not(why)) | (Part::Not(why), Part::Is(one, ttl)) => {
                    if one.is_empty() { Err(*why) } else { Ok((one.clone(), *ttl)) }
                }
                (Part::Not(why), Part::Not(_)) => Err(*why),
            };
        let lookup = self.lookups.remove(name).expect("it is there");
        let others: Vec<u16> =
            self.asked.iter().filter(|(_, asked)| asked.name == name).map(|(port, _)| *port).collect();
        for port in others {
            self.asked.remove(&port);
            ports.give(port);
        }
        if let Ok((addresses, ttl)) = &result {
            self.remember(now, name, addresses, *ttl);
        }
        let result = result.map(|(addresses, _)| addresses);
        let found = |asker| Found { asker, name: name.to_owned(), result: result.clone() };
        self.found.extend(lookup.askers.into_iter().map(found));
    }

    fn remember(&mut self, now: Time, name: &str, addresses: &[IpAddr], ttl: u32) {
        if self.known.len() >= SOCKS_NAMES_MAX {
            self.known.retain(|_, (until, _)| now < *until);
        }
        if self.known.len() >= SOCKS_NAMES_MAX {
            self.known.pop_first();
        }
        let until = now + Duration::from_secs(ttl.min(SOCKS_NAME_S_MAX).into());
        self.known.insert(name.to_owned(), (until, addresses.to_vec()));
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.asked.values().map(|asked| asked.due).min()
    }

    /// Asks again what was not answered, or gives it up.
    pub fn handle_timeout(&mut self, now: Time, ports: &mut Ports) {
        let late: Vec<u16> =
            self.asked.iter().filter(|(_, asked)| asked.due <= now).map(|(port, _)| *port).collect();
        for port in late {
            let Some(asked) = self.asked.remove(&port) else { continue };
            ports.give(port);
            let count = asked.count + 1;
            if count < SOCKS_QUESTIONS_MAX {
                self.question(now, &asked.name, asked.family, count, ports);
            } else {
                self.answered(now, &asked.name, asked.family, Part::Not(NoAddress::Silence), ports);
            }
        }
    }

    /// The next question to send.
    pub fn poll_datagram(&mut self) -> Option<Outgoing> {
        self.out.pop_front()
    }

    /// Whether [`Self::poll_found`] has something.
    pub fn has_found(&self) -> bool {
        !self.found.is_empty()
    }

    /// The next thing that was found, or was not.
    pub fn poll_found(&mut self) -> Option<Found> {
        self.found.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use crate::wire::dns::tests::reply;

    const RESOLVER: &str = "9.9.9.9";

    fn names() -> (Names, Ports) {
        (Names::new(&[RESOLVER.parse().expect("an address")]), Ports::new(Rng::from_number(1)))
    }

    fn questions(names: &mut Names) -> [Outgoing; 2] {
        [names.poll_datagram().expect("A"), names.poll_datagram().expect("AAAA")]
    }

    const NOW: Time = Time::from_millis(5000);

    #[test]
    fn a_name_is_asked_for_once_and_remembered() {
        let (mut names, mut ports) = names();
        names.ask(NOW, "example.com", 7, &mut ports);
        names.ask(NOW, "example.com", 8, &mut ports);
        let [four, six] = questions(&mut names);
        assert!(names.poll_datagram().is_none() && four.port != six.port);
        assert_eq!(four.payload[12..25], *b"\x07example\x03com\x00");
        // An alias before the address.
        let said = reply(&four.payload, 0, &[(5, 60, b"\x01a\xc0\x0c"), (1, 30, &[192, 0, 2, 1])]);
        let other: SocketAddr = "8.8.8.8:53".parse().expect("an address");
        assert!(names.heard(NOW, four.port, other, &said, &mut ports), "from somebody else: in vain");
        assert!(names.poll_found().is_none());
        assert!(names.heard(NOW, four.port, four.to, &said, &mut ports));
        for asker in [7, 8] {
            let found = names.poll_found().expect("found");
            assert_eq!((found.asker, found.result), (asker, Ok(vec!["192.0.2.1".parse().expect("one")])));
        }
        assert!(!names.heard(NOW, six.port, six.to, &said, &mut ports), "nobody waits for it");
        names.ask(NOW + Duration::from_secs(29), "example.com", 9, &mut ports);
        assert!(names.poll_found().is_some_and(|found| found.result.is_ok()));
        names.ask(NOW + Duration::from_secs(31), "example.com", 9, &mut ports);
        assert!(names.poll_found().is_none() && names.poll_datagram().is_some(), "it may have changed");
    }

    #[test]
    fn the_other_family_is_waited_for_when_there_is_none_of_the_first() {
        let (mut names, mut ports) = names();
        names.ask(NOW, "six.example", 1, &mut ports);
        let [four, six] = questions(&mut names);
        names.heard(NOW, four.port, four.to, &reply(&four.payload, 0, &[]), &mut ports);
        assert!(names.poll_found().is_none());
        let said = reply(&six.payload, 0, &[(28, 9, &[0x20; 16])]);
        names.heard(NOW, six.port, six.to, &said, &mut ports);
        assert!(names.poll_found().is_some_and(|found| found.result.is_ok_and(|all| all[0].is_ipv6())));
        // Neither.
        names.ask(NOW, "none.example", 1, &mut ports);
        for one in questions(&mut names) {
            names.heard(NOW, one.port, one.to, &reply(&one.payload, 0, &[]), &mut ports);
        }
        assert_eq!(names.poll_found().map(|found| found.result), Some(Err(NoAddress::NoName)));
    }

    #[test]
    fn what_does_not_exist_is_said_at_once_and_silence_after_a_while() {
        let (mut names, mut ports) = names();
        names.ask(NOW, "no.example", 1, &mut ports);
        let [four, _] = questions(&mut names);
        names.heard(NOW, four.port, four.to, &reply(&four.payload, 3, &[]), &mut ports);
        assert_eq!(names.poll_found().map(|found| found.result), Some(Err(NoAddress::NoName)));
        assert_eq!(names.poll_timeout(), None);
        names.ask(NOW, "silent.example", 1, &mut ports);
        let (mut now, mut asked) = (NOW, 0);
        let found = loop {
            while names.poll_datagram().is_some() {
                asked += 1;
            }
            if let Some(found) = names.poll_found() {
                break found;
            }
            now = names.poll_timeout().expect("it waits");
            names.handle_timeout(now, &mut ports);
        };
        assert_eq!(found.result, Err(NoAddress::Silence));
        assert_eq!(asked, 2 * SOCKS_QUESTIONS_MAX);
        assert_eq!(now, NOW + Duration::from_millis(SOCKS_QUESTION_MS) * SOCKS_QUESTIONS_MAX);
        assert!(names.asked.is_empty() && names.lookups.is_empty());
    }

    #[test]
    fn without_a_resolver_nobody_is_asked() {
        let (mut names, mut ports) = (Names::new(&[]), Ports::new(Rng::from_number(1)));
        names.ask(NOW, "example.com", 1, &mut ports);
        assert_eq!(names.poll_found().map(|found| found.result), Some(Err(NoAddress::NoResolver)));
        assert!(names.poll_datagram().is_none());
    }
}
