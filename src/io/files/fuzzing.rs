//! Fuzz target of a journal that an earlier run left.

use super::journal::{BODY, HEAD, MAGIC, RECORD, check, read};
use crate::io::fuzzing::file_of;

/// A journal: entries are sorted, each record once, and what is kept of the file holds no more than them.
pub fn journal(bytes: &[u8]) {
    let (id, rest) = bytes.split_at(bytes.len().min(16));
    let mut name = [0; 16];
    name[..id.len()].copy_from_slice(id);
    check_journal(rest, &name);
    // The same bytes as the bodies of entries, with checks that are right but where the script damages one.
    let mut made = [&MAGIC[..], &name].concat();
    for body in rest.chunks(BODY + 1) {
        let Some((body, damage)) = body.split_at_checked(BODY) else { continue };
        made.extend_from_slice(body);
        made.extend_from_slice(&check(body));
        if damage.first().is_some_and(|byte| *byte == 0xff) {
            made.pop();
            made.push(0);
        }
    }
    made.extend_from_slice(rest.rchunks(BODY).next().unwrap_or_default());
    check_journal(&made, &name);
}

fn check_journal(bytes: &[u8], name: &[u8; 16]) {
    let (file, _path) = file_of(bytes);
    let (entries, len) = read(&file, name).expect("memory can be read");
    let len = len as usize;
    assert!(len == 0 || (HEAD..=bytes.len()).contains(&len));
    assert!(entries.len() <= len.saturating_sub(HEAD) / RECORD);
    assert!(entries.is_sorted_by(|a, b| (a.path, a.record) < (b.path, b.record)));
    for entry in &entries {
        // The last word on each record is what the file says last.
        let is_it = |at: &&[u8]| at[..16] == entry.path && at[16..24] == entry.record.to_le_bytes();
        let last = bytes[HEAD..len].chunks(RECORD).rfind(is_it).map(|at| &at[24..BODY]);
        assert_eq!(last, Some(&entry.tag[..]));
    }
}

/// A journal of three entries.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![(0..16 + 3 * (BODY as u8 + 1)).map(|at| at % 5).collect()]
}
