//! Removing what nobody needs any more, at once instead of with the next commits.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::check::{leftover_files, resumable};
use crate::corpus::Corpus;
use crate::durable::remove;
use crate::error::Result;
use crate::journal;
use crate::lock::WriterLock;
use crate::retained::numbers;
use crate::retire::{Keep, plan};
use crate::sidecar;
use crate::stats::bytes;
use crate::vouch;

/// A file or a directory that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CollectedFile {
    /// Relative to the index directory.
    pub file: String,
    /// Its length, or that of all files in it.
    pub bytes: u64,
}

/// What a collection removed, or would.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    /// Whether nothing was done but looking.
    pub dry_run: bool,
    /// Generations of which no state is left.
    pub generations: Vec<u32>,
    /// Versions of the dataset.
    pub versions: Vec<u64>,
    /// Files, and sidecars with what is in them.
    pub files: Vec<CollectedFile>,
    /// Their length together. Lance's log of transactions, of a few hundred bytes each, is not counted.
    pub bytes: u64,
}

impl Corpus {
    /// Removes everything but the newest state, the newest of the generation before, protected ones, and what an interrupted
    /// generation that can be taken up again has staged: older states of the newest generation, versions that differ in
    /// settings alone, files that nothing refers to, journals of no use, what killed processes left. With `dry` nothing is
    /// touched.
    ///
    /// A reader that opened an earlier state keeps its vectors and graph, which are in memory; reading texts that are gone is
    /// [`Error::Changed`](crate::Error::Changed) for it. A crash leaves a part of it to the next collection or commit.
    pub fn gc(&self, lock: &WriterLock, dry: bool) -> Result<Collected> {
        lock.must_be_for(self.dir())?;
        let dir = self.dir();
        vouch::verify_newest(dir)?;
        let table = self.table().latest()?;
        let mut before = self.survey()?;
        // What a kill left between two renames is the only copy of its notes: no leftover, but a sidecar to be.
        let mut salvageable = BTreeSet::new();
        for known in &before {
            salvageable.extend(sidecar::salvageable(dir, self.uuid(), known)?);
        }
        if !dry && !salvageable.is_empty() {
            for known in &before {
                sidecar::salvage(dir, self.uuid(), known)?;
            }
            before = self.survey()?;
        }
        let spared = resumable(self)?;
        let plan = plan(dir, self.uuid(), &table, Keep::Least)?;
        let gone = plan.versions_that_go(&table)?;
        let stay: Vec<u64> = table.versions()?.into_iter().filter(|version| !gone.contains(version)).collect();

        let mut paths: BTreeSet<PathBuf> = plan.sidecars.iter().cloned().collect();
        let unreferenced = table.unreferenced_by(&stay)?.into_iter();
        paths.extend(unreferenced.filter(|path| !spared.contains(crate::durable::name(path))));
        paths.extend(gone.iter().map(|version| table.manifest_path(*version)));
        let stale = journal::read(dir)?.is_some() && spared.is_empty();
        if stale {
            paths.insert(journal::path(dir));
        }
        let left = leftover_files(self, &before, &spared)?;
        let mut left: Vec<PathBuf> = left.iter().map(|left| dir.join(&left.file)).collect();
        left.retain(|path| !salvageable.contains(path));
        // A half-removed version is no file; it goes with the versions.
        paths.extend(left.iter().filter(|path| path.exists()).cloned());

        let mut files = Vec::with_capacity(paths.len());
        for path in &paths {
            files.push(CollectedFile { file: relative(dir, path), bytes: bytes(path)? });
        }
        if !dry {
            if stale {
                journal::discard(dir)?;
            }
            plan.carry_out(dir, &table, &spared)?;
            for path in &left {
                remove(path)?;
            }
        }
        let kept = numbers(&plan.kept);
        let generations = numbers(&before).into_iter().filter(|number| !kept.contains(number)).collect();
        let bytes = files.iter().map(|file| file.bytes).sum();
        Ok(Collected { dry_run: dry, generations, versions: gone, files, bytes })
    }
}

fn relative(dir: &Path, path: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).display().to_string()
}
