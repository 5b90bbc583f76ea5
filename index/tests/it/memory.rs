//! A corpus larger than memory must build: creation holds a few batches, whatever the corpus holds.

use std::path::Path;

use ragtune_index::*;

use crate::common::*;

/// The child's work: creates a corpus of so many megabytes and fails if that took more memory than it may.
pub fn stream(dir: &Path, megabytes: usize) {
    const TEXT: usize = 4096;
    // Creating a small one first brings everything into memory that does not depend on the size.
    drop(create(&dir.join("small"), 3000));
    let before = peak_kilobytes();
    let text = "lorem ipsum dolor sit amet ".repeat(TEXT / 27);
    let all = (0..megabytes * 1024 * 1024 / TEXT)
        .map(|at| Ok::<_, Error>(Passage { text: format!("{at} {text}"), ..passage(at) }));
    let corpus = Corpus::create(&dir.join("large"), &source(), all, &CreateOptions::default()).unwrap();
    let grown = peak_kilobytes() - before;
    println!("{megabytes} MB of texts grew the peak by {grown} kB");
    assert!(corpus.len() > 1000 && grown / 1024 < 120, "{grown} kB for {megabytes} MB");
}

#[test]
fn creating_a_large_corpus_takes_little_memory() {
    if !Path::new("/proc/self/status").exists() {
        skipped("this system does not tell the peak of a process's memory");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    assert!(crate::crash::start("stream 400", scratch.path()).wait().unwrap().success());
}

fn peak_kilobytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
