//! `put`: publishes files and directories, prints one reference.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::{block_on, follow, path_json};
use super::show::{Progress, amount, count, number};
use super::{Failure, args, print, tell};
use crate::base::units::show_size;
use crate::config::{NodeDir, plain};

pub(super) fn put(dir: &NodeDir, put: args::Put) -> Result<(), Failure> {
    let paths: Vec<Value> = put
        .paths
        .iter()
        .map(|path| named(path).map(|path| path_json(path.as_os_str())))
        .collect::<Result<_, _>>()?;
    let mut body = json!({ "paths": paths, "salt": put.salt, "skip_unreadable": put.skip_unreadable });
    if let Some(hops) = put.hops {
        body["hops"] = json!(hops);
        body["exit"] = json!(put.exit);
        body["one_friend"] = json!(put.one_friend);
        body["force"] = json!(put.force);
    }
    let interrupted = match put.hops {
        None => {
            "interrupted, nothing was published; the same command goes on from the chunks that are stored"
        }
        Some(_) => {
            "interrupted, no reference was made; what keepers have by now they keep for as long as they have room"
        }
    };
    let mut progress = Progress::new("putting");
    let followed = block_on(async {
        tokio::select! {
            done = follow(dir, "/v1/put", &body, |news| {
                progress.update(&news["progress"]);
                news.get("done").cloned().map(Ok)
            }) => done,
            _ = tokio::signal::ctrl_c() => Err(Failure::interrupted(interrupted)),
        }
    });
    let seconds = progress.finish();
    let done = followed?;
    let reference =
        done["reference"].as_str().ok_or_else(|| Failure::new("the daemon's answer names no reference"))?;
    tell(summary(&done, seconds));
    if put.json { print(&done) } else { print(reference) }
}

/// The absolute path, by the name that the entry is to have.
fn named(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error| Failure::new(format!("cannot read {}: {}", path.display(), plain(&error)));
    fs::symlink_metadata(path).map_err(failed)?;
    let absolute = std::path::absolute(path).map_err(failed)?;
    // `..` has no name of its own.
    let resolved =
        if absolute.file_name().is_none() { fs::canonicalize(path).map_err(failed)? } else { absolute };
    if resolved.file_name().is_none() {
        return Err(Failure::new("/ has no name: put the directories in it"));
    }
    Ok(resolved)
}

fn summary(done: &Value, seconds: f64) -> String {
    let n = |name| number(done, name);
    let mut text = format!(
        "put {}: {}; {} ({}); {} were duplicates or stored already",
        count(n("files_done"), "file"),
        amount(n("bytes_done"), seconds),
        count(n("chunks_new"), "new chunk"),
        show_size(n("chunk_bytes_new")),
        show_size(n("bytes_reused")),
    );
    if n("chunks_given") > 0 {
        text.push_str(&format!(
            "; {} given, each kept by {} nodes or more",
            count(n("chunks_given"), "chunk"),
            n("keepers_min")
        ));
    }
    if n("chunks_short") > 0 {
        text.push_str(&format!(" ({} by fewer than two)", n("chunks_short")));
    }
    if n("skipped") > 0 {
        text.push_str(&format!("; {} left out", count(n("skipped"), "entry").replace("entrys", "entries")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_keep_their_name() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).expect("symlink");
        assert_eq!(named(&link).expect("named"), link, "a symlink is put as one");
        let sub = temporary.path().join("sub");
        fs::create_dir(&sub).expect("made");
        assert_eq!(named(&sub.join(".")).expect("named"), sub);
        let above = named(&sub.join("..")).expect("named");
        assert_eq!(above, fs::canonicalize(temporary.path()).expect("exists"));
        assert!(named(Path::new("/")).is_err());
        let missing = named(Path::new("/no such file")).expect_err("missing").line;
        assert_eq!(missing, "cannot read /no such file: No such file or directory");
    }

    #[test]
    fn the_summary_counts() {
        let done = json!({ "files_done": 1, "bytes_done": 2048, "chunks_new": 2, "chunk_bytes_new": 1 << 20, "skipped": 2 });
        let text = summary(&done, 1.0);
        assert!(text.starts_with("put 1 file: 2.0 KiB in 1.0 s"), "{text}");
        let done = json!({ "files_done": 1, "bytes_done": 1, "chunks_given": 3, "keepers_min": 1, "chunks_short": 2 });
        let given = summary(&done, 1.0);
        assert!(
            given.ends_with("3 chunks given, each kept by 1 nodes or more (2 by fewer than two)"),
            "{given}"
        );
        assert!(text.contains("2 new chunks (1.0 MiB)") && text.ends_with("2 entries left out"), "{text}");
    }
}
