//! When files get their names.

use super::*;
use crate::limits::PLACE_BATCH_FILES;

#[test]
fn complete_files_get_their_names_in_batches_and_before_their_directory_gets_its_time() {
    let mut bed = Bed::new();
    bed.begin();
    bed.directory(1, 0, "d").expect("made");
    for n in 0..PLACE_BATCH_FILES {
        assert!(!bed.out("d/0").exists(), "its bytes may not be on the disk");
        bed.whole(1, &n.to_string(), b"x", 0o444).expect("written");
    }
    assert!(bed.out("d/0").exists() && bed.leftovers_in("d") == 0, "a batch is full");
    bed.whole(1, "last", b"x", 0o444).expect("written");
    bed.killed();
    assert!(bed.begin());
    bed.directory(1, 0, "d").expect("entered");
    let journal = bed.open(1, 1, "last", 1).expect("reopened, though it was read-only already");
    assert_eq!(journal.len(), 1, "what waited is not fetched again");
    bed.finish(1, 0o444).expect("finished");
    bed.act(FileAct::FinishDirectory { dir: 1, mode: 0o755, mtime: TIME }).expect("finished");
    bed.end(true);
    assert_eq!(fs::read(bed.out("d/last")).expect("read"), b"x");
    assert_eq!(fs::metadata(bed.out("d")).expect("there").mtime(), TIME.seconds);
}

/// The end of a file is asked for before the answer to its last record comes.
#[test]
fn a_file_that_lacks_a_record_gets_no_name() {
    let mut bed = Bed::new();
    bed.begin();
    bed.open(1, 0, "f", 2 * RECORD_PLAIN as u64).expect("opened");
    bed.write(1, 0, &record(1)).expect("written");
    bed.write(1, 2, &record(3)).expect_err("could not be written");
    bed.finish(1, 0o644).expect_err("a record is missing");
    bed.end(false);
    assert!(!bed.out("f").exists() && bed.leftovers() == 1);
    assert!(bed.begin());
    assert_eq!(bed.open(1, 0, "f", 2 * RECORD_PLAIN as u64).expect("reopened").len(), 1);
}

/// Linux marks pages that it could not write as clean, so the next run would find them right, and its sync too.
#[test]
fn what_a_failed_sync_was_about_is_fetched_again() {
    let mut bed = Bed::new();
    bed.begin();
    bed.directory(1, 0, "d").expect("made");
    bed.whole(1, "whole", b"x", 0o444).expect("written");
    bed.open(1, 0, "waiting", RECORD_PLAIN as u64).expect("opened");
    bed.write(1, 0, &record(1)).expect("written");
    bed.finish(1, 0o644).expect("finished");
    bed.open(2, 0, "open", 2 * RECORD_PLAIN as u64).expect("opened");
    bed.write(2, 0, &record(1)).expect("written");
    // Nothing that could be synced.
    let null = Arc::new(OwnedFd::from(fs::File::open("/dev/null").expect("opened")));
    let job = bed.files.jobs.get_mut(&JOB).expect("begun");
    job.unsynced.waiting.last_mut().expect("two wait").1 = Some(null);
    bed.place().expect_err("it cannot be synced");
    assert_eq!((bed.leftovers(), bed.leftovers_in("d")), (0, 0), "nothing that may be only in the cache");
    bed.write(2, 1, &record(2)).expect_err("it is no longer there");
    bed.end(false);
    assert!(!bed.out("waiting").exists() && !bed.out("d/whole").exists(), "not named");
    assert!(bed.begin());
    bed.directory(1, 0, "d").expect("entered");
    assert_eq!(bed.open(1, 0, "waiting", RECORD_PLAIN as u64).expect("opened"), [], "fetched again");
    assert_eq!(bed.open(2, 0, "open", 2 * RECORD_PLAIN as u64).expect("opened"), [], "fetched again");
    assert_eq!(bed.open(3, 1, "whole", 1).expect("opened"), [], "fetched again");
}

/// Found by review: the temporaries stayed, and the next run's sync of the same journal succeeded.
#[test]
fn a_failed_sync_of_the_journal_leaves_no_temporaries() {
    let mut bed = Bed::new();
    bed.begin();
    bed.whole(0, "whole", b"x", 0o644).expect("written");
    bed.open(1, 0, "open", 2 * RECORD_PLAIN as u64).expect("opened");
    bed.write(1, 0, &record(1)).expect("written");
    assert_eq!(bed.leftovers(), 2);
    bed.files.jobs.get_mut(&JOB).expect("begun").journal.lose_folder();
    bed.place().expect_err("its name cannot be made durable");
    assert!(bed.leftovers() == 0 && !bed.out("whole").exists());
    assert_eq!(bed.files.jobs[&JOB].undiscarded, 0);
}

#[test]
fn unfinished_files_that_cannot_be_removed_are_counted() {
    let mut bed = Bed::new();
    bed.begin();
    bed.directory(1, 0, "d").expect("made");
    bed.whole(1, "one", b"x", 0o644).expect("written");
    bed.whole(1, "two", b"x", 0o644).expect("written");
    // In the place of one of them is what no unlink removes.
    let temporary = bed.out("d").join(part("one"));
    fs::remove_file(&temporary).expect("removed");
    fs::create_dir(&temporary).expect("made");
    bed.files.jobs.get_mut(&JOB).expect("begun").journal.lose_folder();
    bed.place().expect_err("it cannot be synced");
    assert_eq!(bed.files.jobs[&JOB].undiscarded, 1);
    assert_eq!(bed.leftovers_in("d"), 1);
}
