use super::*;
use crate::wire::reference::tests::blobs;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn nodes() -> impl Strategy<Value = Node<'static>> {
    let target = prop::collection::vec(1u8.., 1..40);
    prop_oneof![
        blobs().prop_map(Node::File),
        blobs().prop_filter("not empty", |blob| blob.size >= 16).prop_map(Node::Directory),
        target.prop_map(|target| Node::Symlink(Cow::Owned(target))),
    ]
}

pub(crate) fn entries(max: usize) -> impl Strategy<Value = Vec<Entry<'static>>> {
    let name = prop::collection::vec(1u8.., 1..20).prop_filter("valid", |name| name_is_valid(name));
    let rest = (0..=MODE_MAX, any::<i64>(), 0..=NANOS_MAX, nodes());
    prop::collection::btree_map(name, rest, 0..max).prop_map(|map: BTreeMap<_, _>| {
        map.into_iter()
            .map(|(name, (mode, seconds, nanos, node))| Entry {
                name: Cow::Owned(name),
                mode: if matches!(node, Node::Symlink(_)) { 0 } else { mode },
                mtime: FileTime { seconds, nanos },
                node,
            })
            .collect()
    })
}

pub(crate) fn write<'a>(entries: impl IntoIterator<Item = &'a Entry<'a>>) -> Vec<u8> {
    let mut writer = DirectoryWriter::new();
    entries.into_iter().for_each(|entry| writer.push(entry).expect("a valid entry"));
    writer.finish().expect("a valid directory")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn round_trips_in_any_order(entries in entries(40), missing in "[a-z]{25}") {
        let bytes = write(&entries);
        prop_assert_eq!(&bytes, &write(entries.iter().rev()));
        let view = DirectoryView::new_checked(&bytes).unwrap();
        prop_assert_eq!(view.len(), entries.len());
        for entry in &entries {
            prop_assert!(view.find(&entry.name).is_some_and(|found| found == *entry));
        }
        prop_assert!(view.find(missing.as_bytes()).is_none());
        prop_assert!(view.get(entries.len()).is_none());
        let listed: Vec<_> = view.iter().map(Entry::into_owned).collect();
        prop_assert!(write(&listed) == bytes);
    }

    #[test]
    fn altered_directories_are_refused_or_are_other_directories(
        entries in entries(12), at in any::<prop::sample::Index>(), to in any::<u8>(), cut in 1usize..300,
    ) {
        let bytes = write(&entries);
        prop_assert!(DirectoryView::new_checked(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
        prop_assert!(DirectoryView::new_checked(&[&bytes[..], &[0]].concat()).is_err());
        let mut altered = bytes.clone();
        altered[at.index(bytes.len())] = to;
        if let Ok(view) = DirectoryView::new_checked(&altered) {
            // What is accepted has one spelling: writing it again gives the same bytes.
            let again: Vec<_> = view.iter().collect();
            prop_assert_eq!(again.len(), entries.len());
            prop_assert!(write(&again) == altered);
        }
    }

    #[test]
    fn never_panics(count in 0u32..5, names in 0u32..99, body in prop::collection::vec(any::<u8>(), 0..900)) {
        let bytes = [&Header { count, names_len: names }.emit()[..], &body].concat();
        if let Ok(view) = DirectoryView::new_checked(&bytes) {
            prop_assert_eq!(view.iter().count(), view.len());
        }
        let _ = DirectoryView::new_checked(&body);
    }

    #[test]
    fn a_guess_is_inside(hash in any::<NameHash>(), low in any::<u64>(), high in any::<u64>(), count in 1u32..) {
        prop_assert!(guess(&hash, low, high, count) < count);
    }
}

fn file(name: &[u8]) -> Entry<'_> {
    Entry {
        name: Cow::Borrowed(name),
        mode: 0o644,
        mtime: FileTime::default(),
        node: Node::File(Blob::EMPTY),
    }
}

#[test]
fn names_that_lead_elsewhere_are_neither_written_nor_read() {
    let good = write([&file(b"ab")]);
    for bad in [&b".."[..], b".", b"", b"a/", b"/", b"a\0", &[b'x'; 256]] {
        let refused = DirectoryWriter::new().push(&file(bad));
        assert!(matches!(refused, Err(BadDirectory::Name(_))), "{bad:?}");
        if bad.len() == 2 {
            let mut forged = good.clone();
            forged[16..32].copy_from_slice(&name_hash(bad));
            let at = forged.len() - 2;
            forged[at..].copy_from_slice(bad);
            assert_eq!(DirectoryView::new_checked(&forged).err(), Some(Malformed("directory: name")));
        }
    }
    let target =
        |target: &'static [u8]| Entry { node: Node::Symlink(Cow::Borrowed(target)), ..file(b"link") };
    for bad in [&b""[..], b"a\0b", &[b'x'; 4096]] {
        assert!(matches!(DirectoryWriter::new().push(&target(bad)), Err(BadDirectory::Target(_))));
    }
}

#[test]
fn one_name_twice_is_refused() {
    let mut writer = DirectoryWriter::new();
    writer.push(&file(b"same")).expect("the first");
    writer.push(&file(b"other")).expect("another");
    writer.push(&file(b"same")).expect("noticed later");
    assert_eq!(writer.finish(), Err(BadDirectory::SameName("same".into())));
}

#[test]
fn an_empty_directory_is_its_header() {
    let bytes = write([]);
    assert_eq!(bytes.len(), HEADER_LEN);
    assert!(DirectoryView::new_checked(&bytes).is_ok_and(|view| view.is_empty()));
}
