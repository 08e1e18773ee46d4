//! `get`: fetches what a reference names into files.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::client::{block_on, follow, path_json};
use super::show::{Progress, amount, count, number};
use super::{Failure, args, print, tell};
use crate::base::units::show_size;
use crate::config::{NodeDir, plain};

pub(super) fn get(dir: &NodeDir, get: args::Get) -> Result<(), Failure> {
    let mut body = destination(get.output.as_deref())?;
    body["reference"] = json!(get.reference);
    body["overwrite"] = json!(get.force || get.output.is_some());
    if let Some(hops) = get.hops {
        body["hops"] = json!(hops);
        body["exit"] = json!(get.exit);
        body["force"] = json!(get.one_friend);
    }
    let mut progress = Progress::new("getting");
    let followed = block_on(async {
        tokio::select! {
            done = follow(dir, "/v1/get", &body, |news| {
                progress.update(&news["progress"]);
                news.get("done").cloned().map(Ok)
            }) => done,
            _ = tokio::signal::ctrl_c() => {
                Err(Failure::interrupted("interrupted; the same command resumes where it stopped"))
            }
        }
    });
    let seconds = progress.finish();
    let done = followed?;
    tell(summary(&done, seconds));
    if get.json { print(&done) } else { Ok(()) }
}

/// What `-o` means, as far as it can be known before the content is: the receiving directory (`root`),
/// and either the new name in it (`rename`) or whether a single directory's contents go into it as they
/// are (`merge`).
fn destination(output: Option<&Path>) -> Result<Value, Failure> {
    let Some(path) = output else {
        return Ok(json!({ "root": utf8(&resolved(Path::new("."))?)?, "merge": false }));
    };
    let with_slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return Ok(json!({ "root": utf8(&resolved(path)?)?, "merge": true }));
    }
    let name = path
        .file_name()
        .ok_or_else(|| Failure::new(format!("-o {}: there is no such directory", path.display())))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = resolved(parent)?;
    if !with_slash {
        return Ok(json!({ "root": utf8(&parent)?, "rename": path_json(name) }));
    }
    if fs::symlink_metadata(parent.join(name)).is_ok() {
        return Err(Failure::new(format!("-o {}: exists and is no directory", path.display())));
    }
    // The node creates this last component.
    Ok(json!({ "root": utf8(&parent.join(name))?, "merge": true }))
}

/// An existing directory without symlinks: the node follows none.
fn resolved(path: &Path) -> Result<std::path::PathBuf, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("-o: cannot use the directory {}: {}", path.display(), plain(&error)))
    };
    let resolved = fs::canonicalize(path).map_err(failed)?;
    if resolved.is_dir() { Ok(resolved) } else { Err(failed(std::io::ErrorKind::NotADirectory.into())) }
}

fn utf8(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| {
        Failure::new(format!(
            "the directory {} has a name that is not UTF-8: choose another with -o",
            path.display()
        ))
    })
}

fn summary(done: &Value, seconds: f64) -> String {
    let n = |name| number(done, name);
    let sources = done["sources"].as_array().map_or(0, Vec::len) as u64;
    let moved = n("bytes_done").saturating_sub(n("bytes_resumed"));
    let mut text = format!("got {}: {}", count(n("files_done"), "file"), amount(moved, seconds));
    if n("bytes_resumed") > 0 {
        text.push_str(&format!("; {} were here already", show_size(n("bytes_resumed"))));
    }
    text + &format!("; {} fetched from {}", show_size(n("bytes_fetched")), count(sources, "peer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_paths_mean_what_cp_would_mean() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let base = fs::canonicalize(temporary.path()).expect("exists");
        let at = |name: &str| base.join(name);
        let text = |name: &str| at(name).to_str().expect("UTF-8").to_owned();
        let to = |path: &Path| destination(Some(path)).map_err(|failure| failure.line);
        fs::create_dir(at("dir")).expect("made");
        fs::write(at("file"), "").expect("written");
        std::os::unix::fs::symlink(at("dir"), at("link")).expect("symlink");

        assert_eq!(to(&at("dir")), Ok(json!({ "root": text("dir"), "merge": true })));
        assert_eq!(to(&at("link")), Ok(json!({ "root": text("dir"), "merge": true })));
        assert_eq!(to(&at("dir/..")), Ok(json!({ "root": base.to_str(), "merge": true })));
        assert_eq!(to(&at("new")), Ok(json!({ "root": base.to_str(), "rename": "new" })));
        assert_eq!(to(&at("file")), Ok(json!({ "root": base.to_str(), "rename": "file" })));
        assert_eq!(to(&at("link/new")), Ok(json!({ "root": text("dir"), "rename": "new" })));
        assert_eq!(to(&at("new/")), Ok(json!({ "root": text("new"), "merge": true })));
        assert!(to(&at("file/")).is_err_and(|line| line.contains("no directory")));
        assert!(to(&at("missing/new")).is_err_and(|line| line.contains("No such file")));
        assert!(to(&at("file/new")).is_err_and(|line| line.contains("ot a directory")));
        let here = destination(None).map_err(|failure| failure.line).expect("here");
        assert_eq!(here["merge"], false);
        assert!(here.get("rename").is_none());
    }

    #[test]
    fn the_summary_tells_new_from_resumed() {
        let done = json!({ "files_done": 2, "bytes_done": 3072, "bytes_resumed": 1024, "bytes_fetched": 4096, "sources": ["a"] });
        let text = summary(&done, 1.0);
        assert!(text.starts_with("got 2 files: 2.0 KiB in 1.0 s"), "{text}");
        assert!(text.ends_with("; 1.0 KiB were here already; 4.0 KiB fetched from 1 peer"), "{text}");
    }
}
