//! What a target begins with.

use std::fs;
use std::path::PathBuf;

/// Called once before libFuzzer reads its corpus. Makes sure that the seeds are inputs that a reader accepts, and puts them
/// into the corpus where that is an empty directory. Rayon runs in the calling thread: other threads would leave their coverage
/// to the wrong input.
pub fn begin(check: fn(&[u8]) -> bool, seeds: fn() -> Vec<Vec<u8>>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().expect("rayon has no pool yet");
    let seeds = seeds();
    for (number, seed) in seeds.iter().enumerate() {
        assert!(check(seed), "seed {number} is refused");
    }
    let Some(corpus) = empty_corpus() else { return };
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(corpus.join(format!("seed-{number}")), seed).expect("the corpus can be written");
    }
}

/// The first directory on the command line, which is where libFuzzer writes what it finds.
fn empty_corpus() -> Option<PathBuf> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    // A merge fills an empty directory from others.
    if given.iter().any(|argument| argument.starts_with("-merge")) {
        return None;
    }
    let corpus = given.iter().map(PathBuf::from).find(|path| path.is_dir())?;
    fs::read_dir(&corpus).ok()?.next().is_none().then_some(corpus)
}
