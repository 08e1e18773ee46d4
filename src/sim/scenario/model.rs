//! The reference model: what each `put` and `get` must give, and what may never be seen on a disk.

use super::plan::PlannedGet;
use crate::sim::files::disk::OLD;
use crate::sim::files::{Node, SimFiles};
use crate::sim::trees::Tree;

/// What a get is to restore, by path below its output.
pub fn wanted(get: &PlannedGet, tree: &Tree) -> Tree {
    if get.inside.is_empty() { tree.clone() } else { tree.inside(&get.inside) }
}

/// What lies below `root` and should not: anything that a person would take for a restored entry and is not
/// one. Directories may still have other modes and times.
pub fn wrong(files: &SimFiles, root: &str, wanted: &Tree) -> Option<String> {
    for (path, found) in files.below(root.as_bytes()) {
        let path = &path[root.len() + 1..];
        let right = match (&found, wanted.entries.get(path)) {
            (Node::File(..), Some(expected)) => found == *expected,
            (Node::Link(target, _), Some(Node::Link(expected, _))) => target == expected,
            (Node::Dir(..), Some(Node::Dir(..))) => true,
            _ => false,
        };
        if !right {
            return Some(format!("{root}/{} is {}", path.escape_ascii(), shape(&found)));
        }
    }
    None
}

/// What of a complete get is missing, different or too much.
pub fn incomplete(files: &SimFiles, root: &str, wanted: &Tree) -> Option<String> {
    for (path, expected) in &wanted.entries {
        let full = [root.as_bytes(), b"/", path].concat();
        let found = files.at(&full);
        if found.as_ref() != Some(expected) {
            let found = found.map_or("missing".into(), |found| shape(&found));
            let (path, expected) = (path.escape_ascii(), shape(expected));
            return Some(format!("{root}/{path} is {found}, not {expected}"));
        }
    }
    match files.disk.below(root.as_bytes()).count() {
        count if count == wanted.entries.len() => None,
        count => Some(format!("{root} has {count} entries, not {}", wanted.entries.len())),
    }
}

/// Whether a line tells a person what happened: one line, and words.
pub fn is_clear(line: &str) -> bool {
    line.len() > 10 && !line.contains('\n') && line.contains(' ')
}

/// Whether a get ended only because no friend could be asked, which a patient user takes for no verdict.
pub fn is_for_want_of_friends(line: &str) -> bool {
    line.starts_with("no friend answers") || line.starts_with("the connected friends have sent nothing")
}

/// What lies on a node's disk and below none of these roots: nobody asked for anything there.
pub fn astray(files: &SimFiles, roots: &[String]) -> Option<String> {
    let known = |path: &[u8]| {
        let top = path[1..].split(|byte| *byte == b'/').next().unwrap_or_default();
        path.starts_with(OLD) || roots.iter().any(|root| root.as_bytes()[1..] == *top)
    };
    let found = files.disk.below(b"").find(|(path, _)| !known(path));
    found.map(|(path, _)| format!("{} is where nobody asked for anything", path.escape_ascii()))
}

fn shape(node: &Node) -> String {
    match node {
        Node::File(bytes, mode, time) => {
            let zeros = bytes.iter().filter(|byte| **byte == 0).count();
            let hash = crate::crypto::hash::blake3(&[bytes]);
            let time = (time.seconds, time.nanos);
            format!("a file of {} bytes ({zeros} zero, {:02x?}), {mode:o}, {time:?}", bytes.len(), &hash[..4])
        }
        Node::Link(target, time) => format!("a link to {} of {}", target.escape_ascii(), time.seconds),
        Node::Dir(mode, time) => format!("a directory, {mode:o}, {}.{}", time.seconds, time.nanos),
    }
}
