//! Writing and reading the files of a run: atomically, or one JSON object a line.

use crate::error::{Context, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

/// Name of the run record within the run folder.
pub const RECORD_FILE: &str = "record.json";

/// Name of the training curve within the run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

/// Replaces a file: writes a temporary file in the same folder, syncs it, renames it, syncs the folder.
///
/// Durable when it returns. A crash or a full disk leaves the old file whole, or the new one.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || format!("could not write `{}`", path.display());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder).context(failed)?;
    file.write_all(bytes).context(failed)?;
    file.as_file().sync_all().context(failed)?;
    readable_by_all(file.as_file()).context(failed)?;
    file.persist(path).map_err(|error| Error::new(failed()).because(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).context(failed)
}

/// Writes values as JSON Lines, atomically.
pub fn write_lines<T: Serialize>(path: &Path, values: &[T]) -> Result<()> {
    let mut bytes = Vec::new();
    for value in values {
        bytes.extend(line(path, value)?);
    }
    write_atomic(path, &bytes)
}

/// Appends one value as a line, in one write. Not durable until the system writes it back: a crash may lose the last
/// lines or cut the last one, which [`keep_lines`] repairs.
pub fn append_line<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let failed = || format!("could not append to `{}`", path.display());
    let mut file = OpenOptions::new().create(true).append(true).open(path).context(failed)?;
    file.write_all(&line(path, value)?).context(failed)
}

/// Reads JSON Lines. Errors name file and line.
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let file = File::open(path).context(|| format!("could not read `{}`", path.display()))?;
    let mut values = Vec::new();
    for (number, line) in (1u64..).zip(BufReader::new(file).lines()) {
        let line = line.context(|| format!("could not read `{}`", path.display()))?;
        let value = serde_json::from_str(&line);
        values.push(value.context(|| format!("{}:{number}: the line is damaged", path.display()))?);
    }
    Ok(values)
}

/// Keeps the first lines of a JSON Lines file for as long as `keep` says so, and drops the rest: what a run that resumes
/// from a checkpoint does with the lines written after it. A line that a crash cut short ends the file. A missing file
/// stays missing.
pub fn keep_lines<T: DeserializeOwned + Serialize>(path: &Path, keep: impl Fn(&T) -> bool) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let text = std::fs::read(path).context(|| format!("could not read `{}`", path.display()))?;
    let mut end = 0;
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match serde_json::from_slice::<T>(line) {
            Ok(value) if line.ends_with(b"\n") && keep(&value) => end += line.len(),
            _ => break,
        }
    }
    if end == text.len() {
        return Ok(());
    }
    write_atomic(path, text.get(..end).unwrap_or_default())
}

fn line<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).context(|| format!("could not write a line of `{}`", path.display()))?;
    line.push(b'\n');
    Ok(line)
}

/// Temporary files are made for the owner's eyes only; a report is for everyone the folder is for.
#[cfg(unix)]
fn readable_by_all(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_by_all(_file: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_no_other_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_atomic(&folder.path().join("missing/x"), b"").unwrap_err();
        assert!(error.to_string().contains("missing/x"));
    }

    #[test]
    fn lines_are_appended_read_and_cut_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        keep_lines::<u64>(&path, |_| true).unwrap();
        assert!(!path.exists());
        for value in [1u64, 2, 3] {
            append_line(&path, &value).unwrap();
        }
        assert_eq!(read_lines::<u64>(&path).unwrap(), [1, 2, 3]);
        // A crash cut the last line: `4` of `45\n` reads as a number, but has no end.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"4").unwrap();
        keep_lines::<u64>(&path, |_| true).unwrap();
        assert_eq!(read_lines::<u64>(&path).unwrap(), [1, 2, 3]);
        keep_lines::<u64>(&path, |&value| value < 3).unwrap();
        assert_eq!(read_lines::<u64>(&path).unwrap(), [1, 2]);
        write_lines(&path, &["a"]).unwrap();
        let error = read_lines::<u64>(&path).unwrap_err();
        assert!(error.to_string().ends_with("m.jsonl:1: the line is damaged"), "{error}");
    }
}
