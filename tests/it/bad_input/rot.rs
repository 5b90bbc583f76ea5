//! Damaged files of an index, through the real program: an error and a hint, where the storage library panics too.

use std::path::{Path, PathBuf};

use crate::support::*;

fn newest_manifest(index: &Path) -> PathBuf {
    let dir = index.join("corpus.lance/_versions");
    let name = files(&dir).into_iter().find(|name| name.extension().is_some_and(|kind| kind == "manifest"));
    dir.join(name.unwrap())
}

#[test]
fn a_manifest_that_leads_the_storage_library_astray_is_an_error() {
    let folder = folder();
    let index = index_copy(folder.path());
    let manifest = newest_manifest(&index);
    let good = std::fs::read(&manifest).unwrap();
    // The last 16 bytes are the position of the content, the format and `LANC`: a position far outside.
    let mut bad = good.clone();
    let at = bad.len() - 16;
    bad[at + 3] ^= 0x40;
    std::fs::write(&manifest, &bad).unwrap();
    let stats = || ragtune(&["index", "stats"]).with("--index", &index).run();
    stats().refused(&["manifest", "not what was written", "ragtune index check"]);
    let check = ragtune(&["index", "check"]).with("--index", &index).run();
    assert_eq!(check.code, Some(1), "{check:#?}");
    // Without its checksum the library itself meets it.
    let vouched = index.join("manifests.json");
    let kept = std::fs::read(&vouched).unwrap();
    std::fs::remove_file(&vouched).unwrap();
    stats().refused(&["dataset", "ragtune index check"]);
    std::fs::write(&vouched, kept).unwrap();
    std::fs::write(&manifest, good).unwrap();
    assert!(is_clean(&index));
}
