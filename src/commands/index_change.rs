//! `ragtune index delete` and `ragtune index compact`, and what every command that changes an index does.

use std::path::Path;

use ragtune_index::{Corpus, WriterLock};

use super::{print_json, print_text};
use crate::cli::{IndexArgs, IndexDeleteArgs};
use crate::cost::units;
use crate::error::{Context, Error, Result};
use crate::pipeline::identity::graph_params_of;

/// An index with the right to change it. Opened anew once nobody else can change it any more.
pub fn open(index: &Path, command: &str) -> Result<(Corpus, WriterLock)> {
    let corpus = Corpus::open(index)?;
    let lock = corpus.lock(&format!("ragtune index {command} --index {}", index.display()))?;
    let corpus = corpus.reopen()?;
    for notice in corpus.notices() {
        eprintln!("note: {notice}");
    }
    Ok((corpus, lock))
}

/// The ids in a file, one a line; blank lines are none.
pub fn ids_of(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).context(|| format!("could not read the ids in `{}`", file.display()))?;
    let ids: Vec<String> = text.lines().map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect();
    if ids.is_empty() {
        return Err(Error::new(format!("`{}` holds no id, at least one was expected", file.display()))
            .hint("write one id a line"));
    }
    Ok(ids)
}

pub fn delete(args: &IndexDeleteArgs) -> Result<u8> {
    let mut ids = args.id.clone();
    if let Some(file) = &args.ids {
        ids.extend(ids_of(file)?);
    }
    let (corpus, lock) = open(&args.index, "delete")?;
    let deleted = corpus.delete(&lock, &ids)?;
    if args.json {
        return print_json(&deleted).map(|()| 0);
    }
    print_text(&format!(
        "{}: {} passages deleted, {} left (version {})\nnext: ragtune index compact --index {}   # drops their rows",
        args.index.display(),
        deleted.passages,
        deleted.left,
        deleted.dataset_version,
        args.index.display()
    ))?;
    Ok(0)
}

pub fn compact(args: &IndexArgs) -> Result<u8> {
    let (corpus, lock) = open(&args.index, "compact")?;
    let before = corpus.stats()?;
    let compacted = corpus.compact(&lock, &graph_params_of(&corpus)?, &mut |_stage| {})?;
    if args.json {
        return print_json(&compacted).map(|()| 0);
    }
    print_text(&format!(
        "{}: {} passages in {} fragments (before: {} deleted ones more, {} fragments, {} on disk)\nnext: ragtune index gc --index {}   # frees what earlier states took",
        args.index.display(),
        compacted.passages,
        compacted.fragments_after,
        compacted.dropped,
        compacted.fragments_before,
        units::bytes(before.total_bytes()),
        args.index.display()
    ))?;
    Ok(0)
}
