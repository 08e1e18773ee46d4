//! Which chunks a get needs, read from the content itself as it was made: the directories on its path, and
//! everything below its end. No code of `service::get` has a say in it.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ChunkId;
use crate::chunk::PieceKey;
use crate::wire::directory::{DirectoryView, Node};
use crate::wire::extents::ExtentList;
use crate::wire::reference::{Blob, Reference};

/// Chunks as they were made.
pub type Pristine = BTreeMap<ChunkId, Vec<u8>>;

/// The chunks of what lies at `inside` (empty: of everything).
pub fn chunks(reference: &Reference, inside: &[u8], pristine: &Pristine) -> BTreeSet<ChunkId> {
    let mut walk = Walk { pristine, needed: BTreeSet::new() };
    let mut found = Node::Directory(reference.root.clone());
    for name in inside.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let Node::Directory(blob) = &found else { panic!("a get asks below what is no directory") };
        let directory = walk.read(blob);
        let view = DirectoryView::new_checked(&directory).expect("as it was made");
        found = view.find(name).expect("a get asks for what is there").into_owned().node;
    }
    walk.all(&found);
    walk.needed
}

struct Walk<'a> {
    pristine: &'a Pristine,
    needed: BTreeSet<ChunkId>,
}

impl Walk<'_> {
    fn all(&mut self, node: &Node<'_>) {
        match node {
            Node::Symlink(_) => {}
            Node::File(blob) => self.pieces(blob),
            Node::Directory(blob) => {
                let directory = self.read(blob);
                let view = DirectoryView::new_checked(&directory).expect("as it was made");
                view.iter().for_each(|entry| self.all(&entry.node));
            }
        }
    }

    /// Needs all pieces of a blob, without reading content.
    fn pieces(&mut self, blob: &Blob) {
        let Some(top) = &blob.top else { return };
        if blob.depth == 0 {
            self.needed.insert(top.chunk);
        } else {
            self.children(blob).iter().for_each(|child| self.pieces(child));
        }
    }

    fn read(&mut self, blob: &Blob) -> Vec<u8> {
        if blob.depth == 0 {
            return self.piece(blob);
        }
        self.children(blob).iter().flat_map(|child| self.read(child)).collect()
    }

    fn children(&mut self, blob: &Blob) -> Vec<Blob> {
        let list = self.piece(blob);
        ExtentList::new_checked(&list, blob).expect("as it was made").iter().collect()
    }

    fn piece(&mut self, blob: &Blob) -> Vec<u8> {
        let Some(top) = &blob.top else { return Vec::new() };
        self.needed.insert(top.chunk);
        let (chunk, key) = (&self.pristine[&top.chunk], PieceKey::new(&top.key));
        let open = |index| {
            let mut record = chunk[top.record(index)].to_vec();
            let len = key.open_record(index, &mut record).expect("as it was sealed");
            record.truncate(len);
            record
        };
        (0..top.records()).flat_map(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Rng, Time};
    use crate::sim::import::{Import, Imported};
    use crate::sim::store::MapStore;
    use crate::sim::trees::Tree;

    fn imported(tree: &Tree) -> (Imported, Pristine) {
        let (mut store, mut rng) = (MapStore::default(), Rng::from_number(1));
        let (mut import, mut pristine) = (Import::new(tree, None, 0), Pristine::new());
        loop {
            let ended = import.step(Time::from_millis(5), &mut store, &mut rng);
            pristine.extend(import.take_made());
            if let Some(ended) = ended {
                return (ended.expect("nothing is in its way"), pristine);
            }
            if let Some(at) = store.poll_timeout() {
                store.handle_timeout(at);
            }
            store.take_acknowledged().into_iter().for_each(|(_, result)| import.acknowledged(result));
        }
    }

    #[test]
    fn all_of_a_tree_needs_all_its_chunks_and_a_part_of_it_fewer() {
        let mut fewer = 0;
        for seed in 0..30 {
            let tree = Tree::random(&mut Rng::from_number(seed));
            let (imported, pristine) = imported(&tree);
            let all: BTreeSet<ChunkId> = imported.chunks.iter().copied().collect();
            assert_eq!(chunks(&imported.reference, b"", &pristine), all, "seed {seed}");
            for path in tree.entries.keys() {
                let part = chunks(&imported.reference, path, &pristine);
                assert!(part.is_subset(&all) && !part.is_empty(), "seed {seed}");
                fewer += usize::from(part.len() < all.len());
            }
        }
        assert!(fewer > 100, "{fewer} parts need less than everything");
    }
}
