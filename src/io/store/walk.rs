//! Walks the trees of an LMDB file by plain reads, before it is mapped. LMDB checks nothing of what it reads: a
//! page that says what cannot be makes it read or write beside its memory, fail an assertion, or hand out
//! a page that is in use. What is looked at here is what it relies on: each page's own number and kind, the bounds
//! of its nodes, the order of its keys, and that no page has two owners, the free list's entries included.
//!
//! The bodies are not read; they are checked against their hashes when they are served. Trees are walked
//! breadth first and up to [`STORE_WALK_PAGES_MAX`], so that opening takes bounded time.
//!
//! ```text
//! page  0     8     10      12      14      16          lower     upper            4096
//!       | no. | pad | flags | lower | upper | 2 × nodes | (empty) | nodes, last first |
//! node  0    2    4       6         8     8+k
//!       | lo | hi | flags | k bytes | key | data: a leaf's value, or the number of its first overflow page |
//! tree  0     4       6       8          16       24         32        40     48
//!       | pad | flags | depth | branches | leaves | overflow | entries | root |
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::limits::{STORE_RUN, STORE_WALK_PAGES_MAX};

const PAGE_HEAD: usize = 16;
const NODE_HEAD: usize = 8;
/// Length of a tree's description, bytes.
pub const TREE_LEN: usize = 48;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOWING: u16 = 0x01;
const SUBTREE: u16 = 0x02;
const INTEGER_KEYS: u16 = 0x08;
const NONE: u64 = u64::MAX;
/// LMDB's own limit of a tree's depth.
const DEPTH_MAX: u16 = 32;
/// Pages 0 and 1 are the meta pages.
const FIRST_PAGE: u64 = 2;

/// The store's named databases, and the lengths of key and value where all are equal.
const NAMED: [(&[u8], Lengths); 6] = [
    (b"index", Some((20, Value::Short))),
    (b"bodies", Some((9, Value::Run))),
    (b"order", Some((8, Value::Id))),
    (b"publications", None),
    (b"peers", None),
    (b"meta", None),
];

type Lengths = Option<(usize, Value)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Short,
    Run,
    Id,
}

/// What is wrong, and where.
#[derive(Debug)]
pub enum Fault {
    /// A page that cannot be what it says.
    Damaged {
        /// Its number.
        page: u64,
        /// How one sees it.
        why: &'static str,
    },
    /// The disk cannot read it.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Checked<T> = Result<T, Fault>;

fn damaged<T>(page: u64, why: &'static str) -> Checked<T> {
    Err(Fault::Damaged { page, why })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Free,
    Main,
    /// One of [`NAMED`].
    Ours(usize),
    Other,
}

/// A tree's description, and what was counted of it.
struct Tree {
    kind: Kind,
    flags: u16,
    depth: u16,
    /// Branch, leaf and overflow pages, and entries.
    says: [u64; 4],
    found: [u64; 4],
    root: u64,
}

impl Tree {
    fn parse(bytes: &[u8], kind: Kind) -> Self {
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Self {
            kind,
            flags: u16_at(bytes, 4),
            depth: u16_at(bytes, 6),
            says: [long(8), long(16), long(24), long(32)],
            found: [0; 4],
            root: long(40),
        }
    }
}

/// A page that is to be looked at.
struct Visit {
    tree: usize,
    page: u64,
    /// 1 is a leaf.
    level: u16,
    /// Its keys are at least this and less than that.
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
}

struct Walk<'a> {
    file: &'a File,
    page_size: usize,
    last_page: u64,
    owned: Vec<u64>,
    trees: Vec<Tree>,
    visits: VecDeque<Visit>,
    budget: usize,
    buffer: Vec<u8>,
}

/// Walks from the two trees that the newest meta page names: the free list's and the main one.
pub fn check(file: &File, page_size: usize, last_page: u64, free: &[u8], main: &[u8]) -> Checked<()> {
    let pages = usize::try_from(last_page + 1).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut walk = Walk {
        file,
        page_size,
        last_page,
        owned: vec![0; pages.div_ceil(64)],
        trees: Vec::new(),
        visits: VecDeque::new(),
        budget: STORE_WALK_PAGES_MAX,
        buffer: vec![0; page_size],
    };
    walk.plant(0, Tree::parse(free, Kind::Free))?;
    walk.plant(0, Tree::parse(main, Kind::Main))?;
    while let Some(visit) = walk.visits.pop_front() {
        if !walk.afford(1) {
            // What is left is not known to be sound, nor can the counts be compared.
            return Ok(());
        }
        walk.visit(&visit)?;
    }
    walk.compare()
}

impl Walk<'_> {
    fn afford(&mut self, pages: usize) -> bool {
        self.budget = self.budget.saturating_sub(pages);
        self.budget > 0
    }

    /// Adds a tree that was described on `page`.
    fn plant(&mut self, page: u64, tree: Tree) -> Checked<()> {
        let flags = if tree.kind == Kind::Free { INTEGER_KEYS } else { 0 };
        if tree.kind == Kind::Other {
            // Another program's, or a later version's: nothing that is read here.
            self.trees.push(tree);
            return Ok(());
        }
        if tree.flags != flags {
            return damaged(page, "a tree's flags");
        }
        if tree.depth > DEPTH_MAX || (tree.depth == 0) != (tree.root == NONE) {
            return damaged(page, "a tree's depth");
        }
        let (root, level) = (tree.root, tree.depth);
        self.trees.push(tree);
        if root != NONE {
            let tree = self.trees.len() - 1;
            self.visits.push_back(Visit { tree, page: root, level, from: None, to: None });
        }
        Ok(())
    }

    /// Gives pages an owner; they must have had none.
    fn own(&mut self, by: u64, first: u64, count: u64) -> Checked<()> {
        let end = first.checked_add(count).filter(|end| *end <= self.last_page + 1);
        let Some(end) = end.filter(|_| first >= FIRST_PAGE) else { return damaged(by, "a page number") };
        for page in first..end {
            let (word, bit) = (page as usize / 64, 1u64 << (page % 64));
            if self.owned[word] & bit != 0 {
                return damaged(by, "a page with two owners");
            }
            self.owned[word] |= bit;
        }
        Ok(())
    }

    fn visit(&mut self, visit: &Visit) -> Checked<()> {
        let number = visit.page;
        self.own(number, number, 1)?;
        let mut page = std::mem::take(&mut self.buffer);
        let result = self
            .file
            .read_exact_at(&mut page, number * self.page_size as u64)
            .map_err(Fault::Io)
            .and_then(|()| self.look(visit, &page));
        self.buffer = page;
        result
    }

    fn look(&mut self, visit: &Visit, page: &[u8]) -> Checked<()> {
        let (number, leaf) = (visit.page, visit.level == 1);
        if page[..8] != number.to_ne_bytes() {
            return damaged(number, "another page's content");
        }
        if u16_at(page, 10) != if leaf { LEAF } else { BRANCH } {
            return damaged(number, "a page of the wrong kind");
        }
        let (lower, upper) = (usize::from(u16_at(page, 12)), usize::from(u16_at(page, 14)));
        if lower < PAGE_HEAD || lower % 2 != 0 || upper < lower || upper > self.page_size {
            return damaged(number, "a page's bounds");
        }
        let count = (lower - PAGE_HEAD) / 2;
        let kind = self.trees[visit.tree].kind;
        if count == 0 || (!leaf && count == 1 && kind != Kind::Free) {
            return damaged(number, "a page with too few nodes");
        }
        let nodes: Option<Vec<Node<'_>>> =
            (0..count).map(|n| Node::parse(page, u16_at(page, PAGE_HEAD + 2 * n), upper, leaf)).collect();
        let Some(nodes) = nodes else { return damaged(number, "a node's bounds") };
        if nodes.iter().map(|node| node.len.next_multiple_of(2)).sum::<usize>() > self.page_size - upper {
            return damaged(number, "nodes that overlap");
        }
        // A branch's first key is never looked at.
        let first = if leaf { 0 } else { 1 };
        let mut keys = nodes[first..].iter().map(|node| node.key);
        let before =
            |a: &[u8], b: &[u8]| if kind == Kind::Free { number_of(a) < number_of(b) } else { a < b };
        if kind == Kind::Free && keys.clone().any(|key| key.len() != 8) {
            return damaged(number, "the free list's keys");
        }
        let ordered = keys.clone().zip(keys.clone().skip(1)).all(|(a, b)| before(a, b));
        let low = keys.clone().next().zip(visit.from.as_deref()).is_none_or(|(key, from)| !before(key, from));
        let high = keys.next_back().zip(visit.to.as_deref()).is_none_or(|(key, to)| before(key, to));
        if !ordered || !low || !high {
            return damaged(number, "keys out of order");
        }
        let found = &mut self.trees[visit.tree].found;
        if leaf {
            found[1] += 1;
            found[3] += count as u64;
            nodes.iter().try_for_each(|node| self.value(visit.tree, number, node))
        } else {
            found[0] += 1;
            for (n, node) in nodes.iter().enumerate() {
                let from = if n == 0 { visit.from.clone() } else { Some(node.key.to_vec()) };
                let to = nodes.get(n + 1).map(|next| next.key.to_vec()).or_else(|| visit.to.clone());
                let level = visit.level - 1;
                self.visits.push_back(Visit { tree: visit.tree, page: node.child, level, from, to });
            }
            Ok(())
        }
    }

    /// Looks at a leaf's value, or at what it says of one that lies elsewhere.
    fn value(&mut self, tree: usize, page: u64, node: &Node<'_>) -> Checked<()> {
        let kind = self.trees[tree].kind;
        let sub = kind == Kind::Main;
        if node.flags & !(OVERFLOWING | if sub { SUBTREE } else { 0 }) != 0 {
            return damaged(page, "a node's flags");
        }
        if let Kind::Ours(which) = kind
            && let Some((key, value)) = NAMED[which].1
        {
            let fits = node.key.len() == key
                && match value {
                    Value::Short => node.flags == 0,
                    Value::Run => node.flags == OVERFLOWING && node.size == STORE_RUN,
                    Value::Id => node.flags == 0 && node.size == 20,
                };
            if !fits {
                return damaged(page, "an entry of the wrong size");
            }
        }
        if node.flags & SUBTREE != 0 {
            if node.data.len() != TREE_LEN {
                return damaged(page, "a tree's description");
            }
            let ours = NAMED.iter().position(|(name, _)| *name == node.key);
            return self.plant(page, Tree::parse(node.data, ours.map_or(Kind::Other, Kind::Ours)));
        }
        if node.flags & OVERFLOWING == 0 {
            return if kind == Kind::Free { self.free_pages(page, node.data) } else { Ok(()) };
        }
        let first = number_of(node.data);
        let count = (PAGE_HEAD - 1 + node.size) / self.page_size + 1;
        self.own(page, first, count as u64)?;
        self.trees[tree].found[2] += count as u64;
        if kind == Kind::Free && self.afford(count) {
            let mut list = vec![0; PAGE_HEAD + node.size];
            self.file.read_exact_at(&mut list, first * self.page_size as u64)?;
            return self.free_pages(page, &list[PAGE_HEAD..]);
        }
        Ok(())
    }

    /// A list of free pages: how many, then their numbers, descending.
    fn free_pages(&mut self, page: u64, list: &[u8]) -> Checked<()> {
        let mut numbers = list.chunks_exact(8).map(number_of);
        let count = numbers.next().unwrap_or(NONE);
        if count > numbers.len() as u64 {
            return damaged(page, "the free list's length");
        }
        let mut before = NONE;
        for number in numbers.take(count as usize) {
            if number >= before {
                return damaged(page, "the free list's order");
            }
            before = number;
            self.own(page, number, 1)?;
        }
        Ok(())
    }

    /// Compares what was found with what each tree says of itself, once all was seen.
    fn compare(&self) -> Checked<()> {
        if self.trees.iter().any(|tree| tree.kind != Kind::Other && tree.found != tree.says) {
            return damaged(0, "a tree of another size than it says");
        }
        let ours = |which| self.trees.iter().any(|tree| tree.kind == Kind::Ours(which));
        let present = (0..NAMED.len()).filter(|which| ours(*which)).count();
        let strange = self.trees.iter().any(|tree| tree.kind == Kind::Other);
        // One flip changes one name.
        if strange && present + 1 == NAMED.len() {
            return damaged(0, "a table with another name");
        }
        Ok(())
    }
}

/// One entry of a page.
struct Node<'a> {
    key: &'a [u8],
    flags: u16,
    /// A branch's child.
    child: u64,
    /// Length of a leaf's value, wherever it lies, bytes.
    size: usize,
    /// What of it lies here.
    data: &'a [u8],
    /// What the node occupies, bytes.
    len: usize,
}

impl<'a> Node<'a> {
    fn parse(page: &'a [u8], at: u16, upper: usize, leaf: bool) -> Option<Self> {
        let at = usize::from(at);
        let rest = page.get(at..).filter(|rest| at >= upper && at % 2 == 0 && rest.len() >= NODE_HEAD)?;
        let (low, flags) = (u32::from(u16_at(rest, 0)) | u32::from(u16_at(rest, 2)) << 16, u16_at(rest, 4));
        let end = NODE_HEAD + usize::from(u16_at(rest, 6));
        let key = rest.get(NODE_HEAD..end)?;
        if !leaf {
            let child = u64::from(low) | u64::from(flags) << 32;
            return Some(Self { key, flags: 0, child, size: 0, data: &[], len: end });
        }
        let here = if flags & OVERFLOWING != 0 { 8 } else { low as usize };
        let data = rest.get(end..end.checked_add(here)?)?;
        Some(Self { key, flags, child: 0, size: low as usize, data, len: end + here })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// A page number or a transaction's; anything but eight bytes is none.
fn number_of(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(NONE, u64::from_ne_bytes)
}
