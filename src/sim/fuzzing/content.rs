//! Content: directories and the search in them, extent lists, slice lists, sealed records.

use std::borrow::Cow;

use super::Input;
use crate::base::ChunkId;
use crate::base::fileop::FileTime;
use crate::chunk::{Domain, Lookup, Piece, PieceKey, SliceList, Step};
use crate::limits::{
    CHUNK_SIZE_MAX, DIRECTORY_ENTRIES_MAX, LOOKUP_GUESSES_MAX, PIECE_PLAIN_MAX, RECORD_PLAIN, SLICE_SIZE,
};
use crate::wire::directory::{
    DirectoryView, DirectoryWriter, Entry, HEADER_LEN, Header, Node, name_hash, name_is_valid,
    target_is_valid,
};
use crate::wire::extents::{self, ExtentList, capacity, count, depth_of, top_len};
use crate::wire::locator::Locator;
use crate::wire::reference::Blob;

/// A blob of `size` bytes whose topmost piece lies somewhere.
fn blob(size: u64, input: &mut Input<'_>) -> Option<Blob> {
    let depth = depth_of(size)?;
    let top = (size > 0).then(|| locator(top_len(size, depth) as u32, input));
    Some(Blob { size, depth, top })
}

fn locator(plain_len: u32, input: &mut Input<'_>) -> Locator {
    Locator {
        chunk: ChunkId([input.byte(); 20]),
        root: [input.byte(); 32],
        chunk_len: CHUNK_SIZE_MAX as u32,
        offset: 0,
        plain_len,
        key: [input.byte(); 32],
    }
}

/// A directory made by the script, and then changed by it.
fn made(input: &mut Input<'_>) -> Vec<u8> {
    let mut writer = DirectoryWriter::new();
    let mut pushed = std::collections::BTreeSet::new();
    for _ in 0..input.below(40) {
        let name = input.bytes(24);
        let mtime = FileTime { seconds: input.long() as i64, nanos: input.word() % 1_000_000_000 };
        let mode = input.half();
        let node = match input.below(3) {
            0 => Node::Symlink(Cow::Borrowed(input.bytes(40))),
            kind => {
                let size = input.number();
                let Some(blob) = blob(size, input) else { continue };
                if kind == 1 { Node::File(blob) } else { Node::Directory(blob) }
            }
        };
        if pushed.insert(name) {
            let _ = writer.push(&Entry { name: Cow::Borrowed(name), mode, mtime, node });
        }
    }
    let mut bytes = writer.finish().expect("names differ, and are few");
    if input.flag() {
        input.mutate(&mut bytes);
    }
    bytes
}

/// A whole directory: what is accepted is the only spelling of its entries, and each is found by its name.
pub fn directory(bytes: &[u8]) {
    check_directory(bytes);
    check_directory(&made(&mut Input::new(bytes)));
}

fn check_directory(bytes: &[u8]) {
    let Ok(view) = DirectoryView::new_checked(bytes) else { return };
    let mut writer = DirectoryWriter::new();
    assert_eq!(view.iter().count(), view.len(), "no accessor fails");
    assert_eq!(view.header().size(), bytes.len() as u64);
    for entry in view.iter() {
        assert!(name_is_valid(&entry.name));
        // Once more without the program's own word for it: what would lead out of a directory.
        assert!(!matches!(entry.name.as_ref(), b"" | b"." | b".."));
        assert!(!entry.name.contains(&b'/') && !entry.name.contains(&0));
        if let Node::Symlink(target) = &entry.node {
            assert!(target_is_valid(target) && entry.mode == 0);
        }
        assert_eq!(view.find(&entry.name), Some(entry.clone()));
        writer.push(&entry).expect("what was read can be written");
    }
    assert_eq!(writer.finish().as_deref(), Ok(bytes), "equal entries give equal bytes");
    assert_eq!(view.find(b"no such \0 name"), None);
    assert_eq!(view.get(view.len()), None);
}

/// The search of one name in a directory that lies elsewhere, however it was made: it ends after a few steps,
/// asks for nothing outside, and finds what the whole directory has.
pub fn lookup(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let by_record = input.flag();
    let name = input.bytes(24).to_vec();
    let directory = if input.flag() { made(&mut input) } else { input.rest().to_vec() };
    search(&directory, &name, by_record);
    // A name that is there, when there is one.
    if let Ok(view) = DirectoryView::new_checked(&directory)
        && let Some(entry) = view.iter().last()
    {
        search(&directory, &entry.name, by_record);
    }
}

fn search(directory: &[u8], name: &[u8], by_record: bool) {
    let mut lookup = Lookup::new(name, directory.len() as u64);
    let most = LOOKUP_GUESSES_MAX + DIRECTORY_ENTRIES_MAX.ilog2() + 4;
    let mut steps = 0;
    let found = loop {
        match lookup.poll() {
            Step::Need(range) => {
                assert!(range.start < range.end, "it asks for something");
                steps += 1;
                assert!(steps <= most, "the search does not end");
                if range.end > directory.len() as u64 {
                    // Only the header is asked for without knowing how much there is.
                    assert_eq!(range, 0..HEADER_LEN as u64);
                    return assert!(Header::parse(directory, directory.len() as u64).is_err());
                }
                let unit = if by_record { RECORD_PLAIN } else { 1 };
                let start = range.start as usize / unit * unit;
                let end = ((range.end as usize).div_ceil(unit) * unit).min(directory.len());
                lookup.feed(start as u64, &directory[start..end]);
            }
            Step::Found(entry) => break Some(entry),
            Step::Absent => break None,
            Step::Malformed(_) => return assert!(DirectoryView::new_checked(directory).is_err()),
        }
    };
    if let Some(entry) = &found {
        assert!(*entry.name == *name && name_is_valid(name));
    }
    if let Ok(view) = DirectoryView::new_checked(directory) {
        assert_eq!(found, view.find(name), "{} steps for {:?}", steps, name_hash(name));
    }
}

/// Extent lists: sizes follow from the total, whatever a list says.
pub fn extents(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let depth = input.byte() % 5;
    let near = capacity(depth.saturating_sub(1)).saturating_mul(1 + input.below(20) as u64);
    let size = match input.below(3) {
        0 => input.number(),
        1 => near.saturating_sub(u64::from(input.byte())),
        _ => near.saturating_add(u64::from(input.byte())),
    };
    let mut list = Vec::new();
    if (1..=3).contains(&depth) && input.flag() && (1..=64).contains(&count(size, depth)) {
        let unit = capacity(depth - 1);
        let extents: Vec<_> = (0..count(size, depth))
            .map(|index| locator(top_len(unit.min(size - index * unit), depth - 1) as u32, &mut input))
            .collect();
        list = extents::emit(size, depth, &extents);
        if input.flag() {
            input.mutate(&mut list);
        }
    }
    let list = if list.is_empty() { input.rest() } else { &list };
    let blob = Blob { size, depth, top: None };
    let index = input.number();
    let part = usize::try_from(extents::extent_range(index).start).ok();
    if let Ok(extent) =
        extents::parse_extent(&blob, index, part.and_then(|at| list.get(at..)).unwrap_or(list))
    {
        assert!(depth > 0 && index < count(size, depth) && extent.depth == depth - 1);
        assert!(extent.size <= capacity(extent.depth) && extent.size <= size);
    }
    let Ok(view) = ExtentList::new_checked(list, &blob) else { return };
    assert!(list.len() <= PIECE_PLAIN_MAX && !view.is_empty() && view.get(view.len()).is_none());
    let extents: Vec<_> = view.iter().collect();
    assert_eq!(extents.iter().map(|extent| extent.size).sum::<u64>(), size);
    let tops: Vec<_> = extents.iter().filter_map(|extent| extent.top.clone()).collect();
    assert_eq!(extents::emit(size, depth, &tops), list);
    for offset in [0, size - 1, input.long() % size] {
        let (index, inside) = extents::locate(depth, offset);
        assert!(inside < extents[index as usize].size);
    }
}

/// Slice lists: none but the chunk's own, and each slice verified alone.
pub fn slices(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (near, shift) = (input.below(4) * SLICE_SIZE, usize::from(input.byte()));
    let len = (near + shift).max(1);
    let seed = input.bytes(64);
    let mut chunk: Vec<u8> = (0..len).map(|at| (at >> 8) as u8 ^ at as u8).collect();
    chunk.iter_mut().zip(seed).for_each(|(byte, seed)| *byte ^= seed);
    let list = SliceList::from_chunk(&chunk);
    assert_eq!(list.root(), blake3::hash(&chunk).as_bytes());
    let mut claim = list.as_bytes().to_vec();
    if input.flag() {
        input.mutate(&mut claim);
    }
    let claimed_len = if input.flag() { input.word() } else { len as u32 };
    if let Ok(parsed) = SliceList::parse(claimed_len, &claim, list.root()) {
        assert!(claim == list.as_bytes() && parsed.count() == list.count());
        assert_eq!(parsed.chunk_len(), claimed_len);
    }
    let index = u32::from(input.byte()) % (list.count() + 2);
    let place = index as usize * SLICE_SIZE..((index as usize + 1) * SLICE_SIZE).min(len);
    let slice = chunk.get(place).unwrap_or_default().to_vec();
    let mut forged = slice.clone();
    input.mutate(&mut forged);
    assert_eq!(list.verify(index, &slice).is_ok(), index < list.count());
    assert!(forged == slice || list.verify(index, &forged).is_err());
    let _ = SliceList::parse(input.word(), input.rest(), list.root());
}

/// Sealed records: what opens is what was sealed, at its own place.
pub fn seal(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let len = match input.below(4) {
        0 => RECORD_PLAIN - 4 + input.below(9),
        _ => 1 + input.below(300),
    };
    let mut plain = vec![input.byte(); len];
    plain.iter_mut().zip(input.bytes(64)).for_each(|(byte, new)| *byte = *new);
    let piece = Piece::new(&plain, &Domain::new(None)).seal();
    let key = PieceKey::new(&piece.key);
    for (index, record) in piece.sealed.chunks(SLICE_SIZE).enumerate() {
        let mut opened = record.to_vec();
        let plain_len = key.open_record(index as u32, &mut opened).expect("just sealed");
        assert_eq!(opened[..plain_len], plain[index * RECORD_PLAIN..][..plain_len]);
        let tag = key.reseal_tag(index as u32, &mut opened[..plain_len]);
        assert_eq!(tag, record[record.len() - tag.len()..]);
        let mut forged = record.to_vec();
        input.mutate(&mut forged);
        let at = input.word() % 17;
        let same = forged == record && at == index as u32;
        assert_eq!(key.open_record(at, &mut forged).is_ok(), same);
    }
    let mut any = input.rest().to_vec();
    assert!(key.open_record(0, &mut any).is_err(), "nobody else has the key");
}
