//! Reads a text file line by line with the memory of its longest line, hashing its bytes on the way.

use super::excerpt;
use crate::error::{Context, Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// A longer line is taken for a file that is not made of lines: 100 000 words are well under 1 MiB.
pub(super) const LONGEST_LINE: usize = 256 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Lines of a file, with their numbers. The terminator (`\n` or `\r\n`) and a byte order mark at the start are left out.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    buffer: Vec<u8>,
    number: u64,
    hasher: blake3::Hasher,
}

impl Lines {
    /// Opens a file. Errors when it is missing, is a folder, or is empty.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let reader = BufReader::with_capacity(1 << 16, open(path)?);
        Ok(Self { path: path.to_owned(), reader, buffer: Vec::new(), number: 0, hasher: blake3::Hasher::new() })
    }

    /// The next line, or `None` after the last. A blank line is an error: it is more often a damaged file than intended.
    pub(super) fn next(&mut self) -> Result<Option<&str>> {
        self.buffer.clear();
        let limit = LONGEST_LINE as u64;
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.buffer);
        let read = read.context(|| format!("could not read `{}`", self.path.display()))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.hasher.update(&self.buffer);
        if read as u64 == limit && self.buffer.last() != Some(&b'\n') {
            let message =
                format!("the line is longer than {} MiB, expected one JSON object a line", LONGEST_LINE >> 20);
            return Err(self.error(message));
        }
        let mut end = self.buffer.len();
        for terminator in [b'\n', b'\r'] {
            if self.buffer[..end].last() == Some(&terminator) {
                end -= 1;
            }
        }
        let mut start = 0;
        if self.number == 1 && self.buffer.starts_with(BYTE_ORDER_MARK) {
            start = BYTE_ORDER_MARK.len();
        }
        match std::str::from_utf8(&self.buffer[start..end]) {
            Ok(line) if line.trim().is_empty() => Err(self
                .error("the line is blank, expected one record a line")
                .hint(format!("delete blank lines: sed -i '/^[[:space:]]*$/d' {}", self.path.display()))),
            Ok(line) => Ok(Some(line)),
            Err(error) => Err(self
                .error(format!(
                    "byte {} of the line is not UTF-8 (`{}`)",
                    start + error.valid_up_to() + 1,
                    around(&self.buffer[start..end], error.valid_up_to())
                ))
                .hint(format!("convert the file: iconv -f WINDOWS-1252 -t UTF-8 {} > FIXED", self.path.display()))),
        }
    }

    /// Number of the line that [`Lines::next`] returned last, from 1; 0 before the first.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// `FILE:LINE` of the line that was returned last.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.path.display(), self.number)
    }

    /// Hex blake3 of the bytes read so far: of the file once `next` has returned `None`.
    pub(super) fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::new(format!("{}: {message}", self.place()))
    }
}

/// Opens a file for reading. Errors when it is missing, is a folder, is compressed, or is empty.
pub(super) fn open(path: &Path) -> Result<File> {
    let missing = |what: &str| Error::new(format!("{what} `{}`", path.display()));
    let hint = "check the path; a relative path starts at the present folder";
    let meta = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing("there is no file").hint(hint),
        kind => with_rights(missing("could not read").because(error), kind, path),
    })?;
    if meta.is_dir() {
        return Err(missing("expected a file, found the folder"));
    }
    let mut file = File::open(path).map_err(|error| {
        let kind = error.kind();
        with_rights(missing("could not read").because(error), kind, path)
    })?;
    if meta.is_file() && meta.len() == 0 {
        return Err(missing("nothing is in the file").hint("the file is empty (0 bytes): write or download it again"));
    }
    let mut magic = [0; 4];
    let filled = file.read(&mut magic).context(|| format!("could not read `{}`", path.display()))?;
    let compressed = match &magic[..filled] {
        [0x1f, 0x8b, ..] => Some(("gzip", "gunzip --keep")),
        [0x28, 0xb5, 0x2f, 0xfd] => Some(("zstd", "unzstd --keep")),
        [b'P', b'K', 3, 4] => Some(("zip", "unzip")),
        _ => None,
    };
    if let Some((kind, command)) = compressed {
        let message = format!("`{}` is compressed with {kind}, expected plain text", path.display());
        return Err(Error::new(message).hint(format!("{command} {}", path.display())));
    }
    std::io::Seek::rewind(&mut file).context(|| format!("could not read `{}` twice", path.display()))?;
    Ok(file)
}

/// Where rights are what is missing, the hint is about them and not about the format.
fn with_rights(error: Error, kind: std::io::ErrorKind, path: &Path) -> Error {
    match kind {
        std::io::ErrorKind::PermissionDenied => {
            error.hint(format!("this user may not read it: see `ls -l {}`, or copy the file", path.display()))
        }
        _ => error,
    }
}

/// Hex blake3 of a file's bytes, read with constant memory.
pub(super) fn hash_file(path: &Path) -> Result<String> {
    let mut file = open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut buffer).context(|| format!("could not read `{}`", path.display()))?;
        if read == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
}

/// What stands around a byte that is no text.
fn around(bytes: &[u8], at: usize) -> String {
    let window = bytes.get(at.saturating_sub(16)..(at + 16).min(bytes.len())).unwrap_or_default();
    excerpt(&String::from_utf8_lossy(window))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn all(content: &[u8]) -> Result<Vec<String>> {
        let file = file(content);
        let mut lines = Lines::open(file.path())?;
        let mut found = Vec::new();
        while let Some(line) = lines.next()? {
            found.push(line.to_owned());
        }
        assert_eq!(lines.number(), found.len() as u64);
        assert_eq!(lines.hash(), blake3::hash(content).to_hex().to_string());
        assert_eq!(lines.hash(), hash_file(file.path()).unwrap());
        Ok(found)
    }

    #[test]
    fn lines_lose_their_terminators_and_nothing_else() {
        assert_eq!(all(b"\xef\xbb\xbfa \r\n\tb\nc").unwrap(), ["a ", "\tb", "c"]);
    }

    #[test]
    fn damaged_lines_are_refused_with_number_and_byte() {
        let error = all(b"a\n  \nb\n").unwrap_err();
        assert!(error.to_string().contains(":2: the line is blank"), "{error}");
        let error = all(b"good\ncaf\xe9 au lait\n").unwrap_err();
        assert!(error.to_string().contains(":2: byte 4 of the line is not UTF-8 (`caf\u{fffd} au lait`)"), "{error}");
        assert!(error.find_hint().unwrap().starts_with("convert the file: iconv"));
    }

    #[test]
    fn a_file_that_may_not_be_read_is_told_from_one_in_another_format() {
        let hint = |kind| with_rights(Error::new("no"), kind, Path::new("q.jsonl")).find_hint();
        assert!(hint(std::io::ErrorKind::PermissionDenied).unwrap().contains("ls -l q.jsonl"));
        assert_eq!(hint(std::io::ErrorKind::Other), None);
    }

    #[test]
    fn files_that_cannot_hold_records_are_refused() {
        let refusal = |path: &Path| Lines::open(path).err().unwrap().to_string();
        assert!(refusal(Path::new("/no/such/file")).starts_with("there is no file `/no/such/file`"));
        assert!(refusal(std::env::temp_dir().as_path()).starts_with("expected a file, found the folder"));
        assert!(refusal(file(b"").path()).starts_with("nothing is in the file"));
        assert!(refusal(file(b"\x1f\x8b\x08\x00rest").path()).contains("compressed with gzip"));
    }
}
