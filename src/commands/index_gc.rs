//! `ragtune index gc`: remove what nobody needs, or say what that is.

use super::index_change::open;
use super::{counted, print_json, print_text};
use crate::cli::IndexGcArgs;
use crate::cost::units;
use crate::error::Result;

/// Files that are named; more are counted.
const NAMED: usize = 20;

pub fn run(args: &IndexGcArgs) -> Result<u8> {
    let (corpus, lock) = open(&args.index, "gc")?;
    let collected = corpus.gc(&lock, args.dry_run)?;
    if args.json {
        return print_json(&collected).map(|()| 0);
    }
    for file in collected.files.iter().take(NAMED) {
        print_text(&format!("{:>10}  {}", units::bytes(file.bytes), file.file))?;
    }
    if let more @ 1.. = collected.files.len().saturating_sub(NAMED) {
        print_text(&format!("and {more} more; `--json` names all"))?;
    }
    let generations: Vec<String> = collected.generations.iter().map(u32::to_string).collect();
    print_text(&format!(
        "{}: {} {} in {}: generations {}, {}",
        args.index.display(),
        if args.dry_run { "would free" } else { "freed" },
        units::bytes(collected.bytes),
        counted(collected.files.len() as u64, "file"),
        if generations.is_empty() { "none".to_owned() } else { generations.join(", ") },
        counted(collected.versions.len() as u64, "version")
    ))?;
    Ok(0)
}
