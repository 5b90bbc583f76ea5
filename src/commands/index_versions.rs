//! `ragtune index versions` and `ragtune index rollback`: the retained past, and going back to it.

use ragtune_index::Corpus;
use serde::Serialize;

use super::index_change::open;
use super::{print_json, print_text};
use crate::cli::{IndexArgs, IndexRollbackArgs};
use crate::error::{Error, Result};

pub fn list(args: &IndexArgs) -> Result<u8> {
    let corpus = Corpus::open(&args.index)?;
    let versions = corpus.versions()?;
    if args.json {
        return print_json(&versions).map(|()| 0);
    }
    for version in &versions {
        let mut line = format!(
            "version {:<5} generation {:<4} {:<9} {}  {} passages",
            version.dataset_version,
            version.generation,
            version.made_by.as_deref().unwrap_or("?"),
            version.made_at.get(..19).unwrap_or(&version.made_at),
            version.passages
        );
        if version.deleted > 0 {
            line.push_str(&format!(", {} deleted", version.deleted));
        }
        line.push_str(&format!(", encoder {}", version.encoder));
        if !version.protected_by.is_empty() {
            line.push_str(&format!(", kept by {}", version.protected_by.join(", ")));
        }
        if version.current {
            line.push_str("  <- current");
        }
        print_text(&line)?;
    }
    Ok(0)
}

#[derive(Serialize)]
struct RolledBack {
    generation: u32,
    passages: usize,
}

pub fn rollback(args: &IndexRollbackArgs) -> Result<u8> {
    let (corpus, lock) = open(&args.index, "rollback")?;
    let generation = match (args.generation, args.to_version) {
        (Some(generation), _) => corpus.rollback(&lock, generation)?,
        (None, Some(version)) => corpus.rollback_to_version(&lock, version)?,
        (None, None) => {
            return Err(Error::new("nothing to go back to was named")
                .hint(format!("`ragtune index versions --index {}` lists what there is", args.index.display())));
        }
    };
    let passages = corpus.reopen()?.passages();
    if args.json {
        return print_json(&RolledBack { generation, passages }).map(|()| 0);
    }
    print_text(&format!("{}: {passages} passages, now generation {generation}", args.index.display()))?;
    Ok(0)
}
