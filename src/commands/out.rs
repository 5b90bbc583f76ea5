//! The folder that `--out` names, looked at before any work: what stands in the way of making it.

use std::path::Path;

use crate::error::{Error, Result};
use crate::train::run::RunFolder;

/// What lies in an index, or in one whose making was interrupted. Names that begin like these are temporary.
const OF_INDEX: [&str; 5] = ["LOCK", "texts.json", "manifests.json", "generations", "damaged"];
const TEMPORARY: [&str; 2] = [".creating-", ".tmp-"];
/// The passages of an index.
const DATASET: &str = "corpus.lance";

/// Refuses a run folder that `ragtune train` would refuse, without making it.
pub fn check_run(out: &Path) -> Result<()> {
    if out.join(DATASET).exists() {
        return Err(Error::new(format!("`--out {}` is an index, expected a run folder to make", out.display()))
            .hint("name a folder that does not exist yet"));
    }
    let begun = |name: &str| name == "LOCK" || (name.starts_with(".config.toml") && name.ends_with(".tmp"));
    if names(out).iter().any(|name| !begun(name)) {
        // Its own words for a folder that it does not take.
        return RunFolder::create(out).map(drop);
    }
    makeable(out)
}

/// Refuses an index folder that is a file, cannot be made, or holds what is neither an index nor an interrupted build.
pub fn check_index(out: &Path) -> Result<()> {
    if out.join(DATASET).exists() {
        return Ok(());
    }
    let own = |name: &str| OF_INDEX.contains(&name) || TEMPORARY.iter().any(|begin| name.starts_with(begin));
    if let Some(foreign) = names(out).iter().find(|name| !own(name)) {
        return Err(Error::new(format!(
            "`--out {}` holds `{foreign}` and is neither an index nor an interrupted build",
            out.display()
        ))
        .hint("name a folder that does not exist yet, or an empty one"));
    }
    makeable(out)
}

/// Removes what a refused build left of a folder that it made itself: a lock, and nothing else.
pub fn discard_index(out: &Path) {
    let lock = out.join("LOCK");
    let only = names(out).iter().all(|name| name == "LOCK");
    let Ok(file) = std::fs::File::open(&lock) else { return };
    // Somebody may have begun another build meanwhile. What was refused is said in any case.
    if only && file.try_lock().is_ok() {
        let _ = std::fs::remove_file(&lock);
        let _ = std::fs::remove_dir(out);
    }
}

/// Names in a folder, in order; none where there is no folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Refuses a path where no folder can be: the nearest one above must be a folder in which another can be made.
fn makeable(out: &Path) -> Result<()> {
    let above = out.ancestors().find(|path| path.symlink_metadata().is_ok());
    let above = above.unwrap_or(Path::new("."));
    if !above.is_dir() {
        return Err(Error::new(format!(
            "`--out {}` cannot be a folder: `{}` is a file",
            out.display(),
            above.display()
        ))
        .hint("name a folder that does not exist yet"));
    }
    let probe = above.join(format!("{}{}", TEMPORARY[1], std::process::id()));
    let made = std::fs::create_dir(&probe);
    if let Err(source) = made
        && source.kind() != std::io::ErrorKind::AlreadyExists
    {
        let full = source.kind() == std::io::ErrorKind::StorageFull;
        let error = Error::new(format!("`--out {}` cannot be made in `{}`", out.display(), above.display()));
        let error = error.because(source);
        // Where a disk is full, that is said at the end.
        return Err(match full {
            true => error,
            false => error
                .hint(format!("`{}` can be only read: name a folder in one that you may write to", above.display())),
        });
    }
    // What cannot be removed is empty, and begins as temporary names do.
    let _ = std::fs::remove_dir(&probe);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(checked: Result<()>, says: &str) {
        let error = checked.unwrap_err();
        assert!(error.to_string().contains(says), "{says}: {error}");
        assert!(error.find_hint().is_some(), "{says}");
    }

    #[test]
    fn what_stands_in_the_way_is_said_and_nothing_is_made() {
        let root = tempfile::tempdir().unwrap();
        let (file, index, run, new) =
            (root.path().join("file"), root.path().join("index"), root.path().join("run"), root.path().join("a/b"));
        std::fs::write(&file, "").unwrap();
        std::fs::create_dir_all(index.join(DATASET)).unwrap();
        std::fs::create_dir(&run).unwrap();
        std::fs::write(run.join("config.toml"), "").unwrap();
        for check in [check_run, check_index] {
            check(&new).unwrap();
            refused(check(&file), "is a file");
            refused(check(&file.join("below")), "is a file");
        }
        assert!(!root.path().join("a").exists());
        refused(check_run(&index), "is an index");
        refused(check_run(&run), "not empty");
        check_index(&index).unwrap();
        refused(check_index(&run), "`config.toml`");
        // What a build that was killed leaves does not count, and what one that was refused leaves is removed.
        std::fs::remove_file(run.join("config.toml")).unwrap();
        std::fs::write(run.join("LOCK"), "").unwrap();
        check_run(&run).unwrap();
        std::fs::create_dir(run.join(".creating-1")).unwrap();
        check_index(&run).unwrap();
        discard_index(&run);
        assert!(run.exists());
        std::fs::remove_dir(run.join(".creating-1")).unwrap();
        discard_index(&run);
        assert!(!run.exists());
        assert_eq!(names(root.path()), ["file", "index"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_path_where_nothing_can_be_made_is_refused() {
        refused(check_run(Path::new("/proc/none/run")), "cannot be made in");
    }
}
