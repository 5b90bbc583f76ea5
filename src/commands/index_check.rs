//! `ragtune index check`: walk every file; 0 when clean, 1 with a list of defects. With `--mend`, repair first.

use std::path::Path;

use ragtune_index::{CommitStage, Corpus};

use super::{print_json, print_text};
use crate::error::Result;

pub fn run(index: &Path, mend: bool, json: bool) -> Result<u8> {
    if mend {
        let corpus = Corpus::open(index)?;
        let lock = corpus.lock(&format!("ragtune index check --mend --index {}", index.display()))?;
        let mut built = false;
        for done in corpus.mend_alike(&lock, &mut |stage| built |= stage == CommitStage::Graph)? {
            eprintln!("mended: {done}");
        }
        if built {
            super::poor_graph::announce_newest(&corpus)?;
        }
    }
    let defects = ragtune_index::check(index)?;
    if json {
        print_json(&defects)?;
    } else if defects.is_empty() {
        print_text(&format!("{}: clean", index.display()))?;
    } else {
        for defect in &defects {
            print_text(&format!("{}: {}\n  mend: {}", defect.file, defect.what, defect.mend))?;
        }
    }
    Ok(u8::from(!defects.is_empty()))
}
