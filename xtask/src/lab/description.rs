//! A lab in a few lines: hosts, the links between them, and the nodes that run there.
//!
//! ```text
//! # two friends over a bad line, a third beside them
//! hosts a b c
//! link a-b rate=100mbit,delay=20ms    # the emulator's, both directions alike
//! b>a rate=10mbit,loss=1%             # what is different in one direction
//! veth b-c                            # the kernel's own: fast and clean
//! node a                              # a daemon on that host
//! node b
//! friends a-b                         # each knows the other; needs both nodes and a link between them
//! ```
//!
//! What follows a link's ends is for the emulator to read, as are lines that begin with a direction: the
//! same lines may be said to a running lab.

use anyhow::{Context, Result, bail, ensure};

/// Characters of a host's name at most: devices (`to-NAME`) and namespaces are named after it.
const NAME_MAX: usize = 8;
/// Hosts of a lab at most: the last byte of their addresses.
const HOSTS_MAX: usize = 250;

/// What joins two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A veth pair: as fast as the kernel, and without a fault.
    Veth,
    /// Two TUN devices with the emulator between them.
    Emulated,
}

/// One link, by the numbers of its hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its ends.
    pub ends: [usize; 2],
    /// Of what.
    pub kind: Kind,
}

/// A whole lab.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Names of the hosts.
    pub hosts: Vec<String>,
    /// Links; at most one between any two hosts.
    pub links: Vec<Link>,
    /// What the emulator is told at first, and in which line that stood.
    pub control: Vec<(usize, String)>,
    /// Hosts that run a node.
    pub nodes: Vec<usize>,
    /// Nodes that are friends.
    pub friends: Vec<[usize; 2]>,
}

impl Description {
    /// `a` and `b`, joined by a veth pair.
    pub fn two() -> Description {
        let link = Link { ends: [0, 1], kind: Kind::Veth };
        Description { hosts: vec!["a".into(), "b".into()], links: vec![link], ..Description::default() }
    }

    /// `a` and `b`, joined by an emulated link.
    pub fn emulated(text: &str) -> Description {
        let link = Link { ends: [0, 1], kind: Kind::Emulated };
        Description { links: vec![link], control: vec![(1, format!("a-b {text}"))], ..Description::two() }
    }

    /// Reads one.
    pub fn parse(text: &str) -> Result<Description> {
        let mut lab = Description::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                lab.read(number + 1, line).with_context(|| format!("line {}: {line}", number + 1))?;
            }
        }
        ensure!(!lab.hosts.is_empty(), "no hosts: a line such as `hosts a b` is missing");
        Ok(lab)
    }

    fn read(&mut self, number: usize, line: &str) -> Result<()> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let (first, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        match word {
            "hosts" => rest.split_whitespace().try_for_each(|name| self.add_host(name))?,
            "link" => {
                self.add_link(first, Kind::Emulated)?;
                self.control.push((number, format!("{first} {}", text.trim())));
            }
            "veth" => {
                ensure!(text.is_empty(), "a veth pair has no faults: say `link`");
                self.add_link(first, Kind::Veth)?;
            }
            "node" => {
                let host = self.host(rest)?;
                ensure!(!self.nodes.contains(&host), "{rest} runs a node already");
                self.nodes.push(host);
            }
            "friends" => {
                let ends = self.ends(rest, '-')?;
                ensure!(ends.iter().all(|end| self.nodes.contains(end)), "only nodes have friends");
                ensure!(self.link_between(ends).is_some(), "no link between them");
                self.friends.push(ends);
            }
            way if way.contains(['>', '-']) => {
                let ends = self.ends(way, if way.contains('>') { '>' } else { '-' })?;
                let link = self.link_between(ends).context("no link between them")?;
                ensure!(link.kind == Kind::Emulated, "a veth pair has no faults: say `link`");
                self.control.push((number, line.to_string()));
            }
            _ => bail!("{word:?}: hosts, link, veth, node, friends or a direction (a>b) is wanted"),
        }
        Ok(())
    }

    fn add_host(&mut self, name: &str) -> Result<()> {
        let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ensure!(plain && name.len() <= NAME_MAX, "{name:?}: small letters and digits, {NAME_MAX} at most");
        ensure!(!self.hosts.iter().any(|host| host == name), "{name} is there already");
        ensure!(self.hosts.len() < HOSTS_MAX, "more than {HOSTS_MAX} hosts");
        self.hosts.push(name.to_string());
        Ok(())
    }

    fn add_link(&mut self, ends: &str, kind: Kind) -> Result<()> {
        let ends = self.ends(ends, '-')?;
        ensure!(self.link_between(ends).is_none(), "there is a link between them already");
        self.links.push(Link { ends, kind });
        Ok(())
    }

    /// The link between two hosts, whichever is named first.
    pub fn link_between(&self, ends: [usize; 2]) -> Option<&Link> {
        let [a, b] = ends;
        self.links.iter().find(|link| link.ends == ends || link.ends == [b, a])
    }

    fn ends(&self, text: &str, between: char) -> Result<[usize; 2]> {
        let (a, b) =
            text.split_once(between).with_context(|| format!("{text:?}: two hosts are wanted, as a-b"))?;
        let ends = [self.host(a)?, self.host(b)?];
        ensure!(ends[0] != ends[1], "{a} and itself");
        Ok(ends)
    }

    /// A host's number.
    pub fn host(&self, name: &str) -> Result<usize> {
        let found = self.hosts.iter().position(|host| host == name);
        found.with_context(|| format!("no host {name:?}; `hosts` names them, before they are used"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line() {
        let text = "\n# a comment\nhosts a b c # another\nlink a-b rate=100mbit,delay=20ms\nb>a loss=1%\n\
                    veth b-c\nlink c-a\nnode a\nnode b\nfriends b-a\n";
        let lab = Description::parse(text).unwrap();
        assert_eq!(lab.hosts, ["a", "b", "c"]);
        let kinds: Vec<_> = lab.links.iter().map(|link| (link.ends, link.kind)).collect();
        assert_eq!(kinds, [([0, 1], Kind::Emulated), ([1, 2], Kind::Veth), ([2, 0], Kind::Emulated)]);
        let control = ["a-b rate=100mbit,delay=20ms", "b>a loss=1%", "c-a "];
        assert_eq!(lab.control.iter().map(|(_, line)| &line[..]).collect::<Vec<_>>(), control);
        assert_eq!((lab.control[1].0, &lab.nodes[..], &lab.friends[..]), (5, &[0, 1][..], &[[1, 0]][..]));
        let two = Description::emulated("loss=1%");
        assert_eq!(
            two,
            Description::parse("hosts a b\nlink a-b loss=1%")
                .map(|d| Description { control: vec![(1, d.control[0].1.clone())], ..d })
                .unwrap()
        );
    }

    #[test]
    fn a_mistake_is_said_with_its_line() {
        for (text, part) in [
            ("", "no hosts"),
            ("hosts a a", "there already"),
            ("hosts A", "small letters"),
            ("hosts overlylong", "8 at most"),
            ("link a-b", "no host \"a\""),
            ("hosts a b\nlink a b", "two hosts are wanted"),
            ("hosts a b\nlink a-a", "itself"),
            ("hosts a b\nlink a-b\nveth b-a", "already"),
            ("hosts a b\nveth a-b loss=1%", "say `link`"),
            ("hosts a b\nveth a-b\na>b loss=1%", "say `link`"),
            ("hosts a b\na>b loss=1%", "no link"),
            ("hosts a b\nnode c", "no host"),
            ("hosts a b\nnode a\nnode a", "already"),
            ("hosts a b\nlink a-b\nfriends a-b", "only nodes"),
            ("hosts a b\nnode a\nnode b\nfriends a-b", "no link"),
            ("hosts a b\nlinks a-b", "is wanted"),
        ] {
            let error = format!("{:#}", Description::parse(text).unwrap_err());
            let line = text.lines().count().max(1);
            assert!(error.contains(part), "{text:?}: {error}");
            assert!(text.is_empty() || error.contains(&format!("line {line}: ")), "{text:?}: {error}");
        }
    }
}
