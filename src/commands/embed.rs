//! `ragtune embed`: texts into vectors, for other programs and for comparison with them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{locate, print_json, print_text, progress};
use crate::cli::EmbedArgs;
use crate::config::at_least_one;
use crate::error::{Context, Error, Result};
use crate::hub::Origin;
use crate::models::encoder::Encoder;
use crate::models::folder::replace_file;
use crate::models::{Grad, Role};
use crate::pipeline::embed::{by_length, passage_text};

/// What `embed --json` prints.
#[derive(Serialize)]
struct Embedded {
    encoder: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    hub: Option<Origin>,
    role: &'static str,
    texts: usize,
    dimension: usize,
    max_length: usize,
    /// Share of the texts that were cut to `max_length` tokens.
    truncated: f64,
    out: PathBuf,
}

/// One text with its name.
struct Named {
    id: String,
    text: String,
}

/// One line of the result.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    vector: &'a [f32],
}

/// How vectors are written.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    Lines,
    Array,
}

pub fn run(args: &EmbedArgs) -> Result<u8> {
    let (role, role_name) = match args.role.as_str() {
        "question" => (Role::Question, "question"),
        "passage" => (Role::Passage, "passage"),
        other => {
            return Err(Error::new(format!("unknown role `{other}`, expected `question` or `passage`"))
                .hint("use `--role question` for what is asked, `--role passage` for what is searched"));
        }
    };
    let format = format_of(args.out.as_deref())?;
    at_least_one("--batch-tokens", args.batch_tokens)?;
    let device = crate::models::device::open(&args.device)?;
    let texts = read(&args.file)?;
    let located = locate(&args.encoder)?;
    let encoder = Encoder::load(&located.folder, &device)?;
    let (vectors, cut) = embed(&encoder, &texts, role, args.batch_tokens)?;
    if cut > 0 {
        eprintln!("{cut} of {} texts were cut to {} tokens", texts.len(), encoder.max_length());
    }
    let write = |to: &mut dyn Write| match format {
        Format::Lines => write_lines(to, &texts, &vectors, encoder.dim()),
        Format::Array => write_array(to, &vectors, texts.len(), encoder.dim()),
    };
    let Some(out) = &args.out else {
        return match write(&mut std::io::stdout().lock()) {
            // A reader that closed the pipe has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
            other => other.map(|()| 0).context(|| "the vectors cannot be printed".into()),
        };
    };
    replace_file(out, |temporary| {
        let mut file = std::io::BufWriter::new(std::fs::File::create(temporary)?);
        write(&mut file).and_then(|()| file.flush()).context(|| format!("cannot write `{}`", out.display()))
    })?;
    let done = Embedded {
        encoder: located.name(),
        hub: located.origin,
        role: role_name,
        texts: texts.len(),
        dimension: encoder.dim(),
        max_length: encoder.max_length(),
        truncated: cut as f64 / texts.len().max(1) as f64,
        out: out.clone(),
    };
    if args.json {
        print_json(&done)?;
    } else {
        print_text(&format!("{}: {} vectors of {} numbers", out.display(), done.texts, done.dimension))?;
    }
    Ok(0)
}

/// (texts, D) row-major, and how many texts lost their end.
fn embed(encoder: &Encoder, texts: &[Named], role: Role, batch_tokens: usize) -> Result<(Vec<f32>, usize)> {
    let plain: Vec<&str> = texts.iter().map(|named| named.text.as_str()).collect();
    let tokenized = encoder.tokenize(&plain, role)?;
    let dim = encoder.dim();
    let mut vectors = vec![0f32; texts.len() * dim];
    let bar = progress("embedding", texts.len() as u64, "texts");
    for batch in by_length(&tokenized.ids, batch_tokens) {
        let ids: Vec<Vec<u32>> = batch.iter().filter_map(|row| tokenized.ids.get(*row).cloned()).collect();
        let rows = encoder.forward_as(&ids, role, Grad::Off)?.to_vec2::<f32>()?;
        for (row, vector) in batch.iter().zip(rows) {
            let slot = vectors.get_mut(row * dim..(row + 1) * dim);
            slot.ok_or_else(|| Error::new("a vector does not fit"))?.copy_from_slice(&vector);
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok((vectors, tokenized.truncated))
}

fn format_of(out: Option<&Path>) -> Result<Format> {
    let Some(out) = out else { return Ok(Format::Lines) };
    match out.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl") => Ok(Format::Lines),
        Some("npy") => Ok(Format::Array),
        _ => Err(Error::new(format!("`--out {}` ends neither in .jsonl nor in .npy", out.display()))
            .hint("name the file vectors.jsonl or vectors.npy")),
    }
}

/// Texts with their names; a line without one is named by its number, from 1.
fn read(path: &Path) -> Result<Vec<Named>> {
    let file = std::fs::File::open(path).map_err(|source| {
        Error::new(format!("the texts `{}` cannot be read", path.display()))
            .because(source)
            .hint("give a file with one JSON value a line: \"a text\", or {\"id\": \"1\", \"text\": \"a text\"}")
    })?;
    let mut texts = Vec::new();
    for (number, line) in (1usize..).zip(BufReader::new(file).lines()) {
        let line = line.context(|| format!("{}:{number}: the line cannot be read", path.display()))?;
        let value: Value = serde_json::from_str(&line).map_err(|source| refused(path, number).because(source))?;
        let field = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let text = match (&value, field("text"), field("question")) {
            (Value::String(text), _, _) => text.clone(),
            (_, Some(text), _) => {
                let title = field("title").unwrap_or_default();
                // As an index would embed it.
                passage_text(&ragtune_index::Passage { id: String::new(), title, text })
            }
            (_, None, Some(question)) => question,
            _ => return Err(refused(path, number)),
        };
        texts.push(Named { id: field("id").unwrap_or_else(|| number.to_string()), text });
    }
    if texts.is_empty() {
        return Err(Error::new(format!("nothing is in `{}`", path.display())).hint("write one text a line"));
    }
    Ok(texts)
}

fn refused(path: &Path, number: usize) -> Error {
    Error::new(format!("{}:{number}: expected a JSON string, or an object with `text` or `question`", path.display()))
        .hint("write one JSON value a line: \"a text\", or {\"id\": \"1\", \"text\": \"a text\"}")
}

fn write_lines(to: &mut dyn Write, texts: &[Named], vectors: &[f32], dim: usize) -> std::io::Result<()> {
    for (named, vector) in texts.iter().zip(vectors.chunks(dim.max(1))) {
        let line = serde_json::to_vec(&Line { id: &named.id, vector })?;
        to.write_all(&line)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}

/// NumPy's format, version 1.0: a magic number, the length of a header that says type and shape, then the numbers.
fn write_array(to: &mut dyn Write, vectors: &[f32], rows: usize, dim: usize) -> std::io::Result<()> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    // The numbers begin at a multiple of 64 bytes: 10 before the header, and a line end at its end.
    let padding = (64 - (10 + header.len() + 1) % 64) % 64;
    header.push_str(&" ".repeat(padding));
    header.push('\n');
    to.write_all(b"\x93NUMPY\x01\x00")?;
    to.write_all(&(header.len() as u16).to_le_bytes())?;
    to.write_all(header.as_bytes())?;
    for value in vectors {
        to.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_laid_out_as_numpy_reads_it() {
        let mut bytes = Vec::new();
        write_array(&mut bytes, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3).unwrap();
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + header) % 64, 0);
        let text = std::str::from_utf8(&bytes[10..10 + header]).unwrap();
        assert!(
            text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }") && text.ends_with('\n')
        );
        assert_eq!(bytes.len(), 10 + header + 24);
        assert_eq!(&bytes[bytes.len() - 4..], &6f32.to_le_bytes());
    }

    #[test]
    fn texts_are_read_in_every_form_and_others_are_named_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        let lines = [
            "\"plain\"",
            r#"{"id": "p", "title": "T", "text": "passage"}"#,
            r#"{"id": "q", "question": "who"}"#,
            r#"{"text": "bare"}"#,
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        let read_all: Vec<(String, String)> =
            read(&path).unwrap().into_iter().map(|named| (named.id, named.text)).collect();
        let expected = [("1", "plain"), ("p", "T passage"), ("q", "who"), ("4", "bare")];
        assert_eq!(read_all, expected.map(|(id, text)| (id.to_owned(), text.to_owned())));
        for (text, at) in [("\"a\"\n{\"txt\": 1}", ":2:"), ("\"a\"\n{", ":2:"), ("", "nothing")] {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).err().unwrap();
            assert!(error.to_string().contains(at) && error.find_hint().is_some(), "{error}");
        }
    }
}
