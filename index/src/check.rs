//! Looking at everything: whether each file is what was written, and what killed processes left behind.

use std::collections::BTreeSet;
use std::path::Path;

use ragtune_nearest::Aligned;

use crate::corpus::Corpus;
use crate::create::leftovers;
use crate::durable::{digest, entries, name};
use crate::error::Result;
use crate::generation::{load_vectors, read_graph};
use crate::held;
use crate::journal;
use crate::lexical::{self, LEXICAL};
use crate::manifest::{CURRENT, GENERATIONS, GRAPH, UNFINISHED, sidecars};
use crate::mend::tables;
use crate::protection;
use crate::survey::{self, Known};
use crate::table::{DATASET, Table};
use crate::texts::{TEXTS, Texts, needed};
use crate::torn::DAMAGED;
use crate::vouch;

/// How bad a defect is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DefectKind {
    /// Work that was interrupted, or files that a killed process left: nothing is wrong and nothing is lost.
    Leftover,
    /// A derived file is missing or damaged: search is slower until it is rebuilt.
    Derived,
    /// Passages or vectors are not what was written: they must be restored or made again.
    Damage,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Defect {
    /// How bad it is.
    pub kind: DefectKind,
    /// The file or directory, relative to the index directory.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

const BY_MEND: &str = "`ragtune index check --mend --index DIR` repairs it";
const BY_RESTORING: &str = "restore the index from a copy, or build it again";

const BY_RESTORING_OR_DROPPING: &str = "restore the index from a copy; an old version whose manifest is damaged and that nobody \
     keeps, `ragtune index check --mend --index DIR` drops";

/// Walks everything in an index directory and verifies every checksum. Reads all texts and vectors once. An error means that
/// there is no index to check, or that the system refused; what is wrong with an index is in the list.
pub fn check(dir: &Path) -> Result<Vec<Defect>> {
    let corpus = match Corpus::open(dir) {
        Ok(corpus) => corpus,
        Err(error) if dir.join(DATASET).is_dir() && !error.out_of_space() => {
            return Ok(vec![defect(DefectKind::Damage, DATASET, error.in_full(), BY_RESTORING)]);
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for aside in entries(&corpus.dir().join(DAMAGED))? {
        let what = "a half-written manifest that was set aside; the commit it belonged to is lost";
        found.push(defect(DefectKind::Leftover, format!("{DAMAGED}/{}", name(&aside)), what, BY_MEND));
    }
    found.extend(corpus.notices().iter().map(|notice| defect(DefectKind::Leftover, DATASET, notice.clone(), BY_MEND)));
    check_manifests(&corpus, &mut found)?;
    check_texts(&corpus, &mut found)?;
    let known = match corpus.survey() {
        Ok(known) => known,
        Err(error) => {
            found.push(defect(DefectKind::Damage, DATASET, error.in_full(), BY_RESTORING_OR_DROPPING));
            return Ok(found);
        }
    };
    let mut seen = BTreeSet::new();
    for known in &known {
        let (before, seen_before) = (found.len(), seen.clone());
        check_generation(&corpus, known, &mut seen, &mut found);
        // What a writer retired meanwhile is gone, not damaged; what it shared with a later state is looked at there.
        if found.len() > before && !known.table.lists(known.table.version())? {
            found.truncate(before);
            seen = seen_before;
        }
    }
    check_current(&corpus, &known, &mut found);
    if let Some(what) = lexical::defect(&corpus)? {
        found.push(defect(DefectKind::Derived, LEXICAL, what, BY_MEND));
    }
    let spared = check_journal(&corpus, &mut found)?;
    found.extend(leftover_files(&corpus, &known, &spared)?);
    Ok(found)
}

/// Files that nothing refers to and that `mend` removes. `spared` are staged files of a generation that can be taken up
/// again.
pub(crate) fn leftover_files(corpus: &Corpus, known: &[Known], spared: &BTreeSet<String>) -> Result<Vec<Defect>> {
    let mut found = Vec::new();
    let mut add = |path: &Path, what: &str| {
        let file = path.strip_prefix(corpus.dir()).unwrap_or(path).display().to_string();
        found.push(defect(DefectKind::Leftover, file, what, BY_MEND));
    };
    for path in leftovers(corpus.dir())? {
        add(&path, "an index whose creation was interrupted");
    }
    let generations = corpus.dir().join(GENERATIONS);
    for place in [corpus.dir(), generations.as_path()] {
        for path in entries(place)?.iter().filter(|path| name(path).starts_with(UNFINISHED)) {
            add(path, "a file that a killed process was writing");
        }
    }
    let names: BTreeSet<String> = known.iter().map(Known::sidecar_name).collect();
    for sidecar in sidecars(corpus.dir())? {
        if !names.contains(name(&sidecar)) {
            add(&sidecar, "the sidecar of a generation that the dataset does not hold");
            continue;
        }
        for path in entries(&sidecar)?.iter().filter(|path| name(path).starts_with(UNFINISHED)) {
            add(path, "a file that a killed process was writing");
        }
    }
    let table = corpus.table().latest()?;
    for version in survey::removed_in_part(&table)? {
        let what = "an old generation that a killed process had begun to remove";
        found.push(defect(DefectKind::Leftover, format!("{DATASET} (version {version})"), what, BY_MEND));
    }
    let mut add = |path: &Path, what: &str| {
        let file = path.strip_prefix(corpus.dir()).unwrap_or(path).display().to_string();
        found.push(defect(DefectKind::Leftover, file, what, BY_MEND));
    };
    for path in table.unreferenced()?.iter().filter(|path| !spared.contains(name(path))) {
        add(path, "a data file that belongs to no generation");
    }
    for path in table.half_written()? {
        add(&path, "a file that a killed process was writing");
    }
    Ok(found)
}

/// Names of the staged files that a resumed generation can use: none when the journal is torn, stale or missing.
pub(crate) fn resumable(corpus: &Corpus) -> Result<BTreeSet<String>> {
    let Some(entries) = journal::read(corpus.dir())? else { return Ok(BTreeSet::new()) };
    let table = corpus.table().latest()?;
    match entries.header {
        Some(header) if header.uuid == corpus.uuid() && header.read_version == table.version() => {
            let data = table.data_dir();
            Ok(entries
                .staged
                .into_iter()
                .filter(|staged| journal::intact(staged, &data))
                .map(|staged| staged.file)
                .collect())
        }
        _ => Ok(BTreeSet::new()),
    }
}

/// Lance's own files: the manifests by their checksums, the protections by their names.
fn check_manifests(corpus: &Corpus, found: &mut Vec<Defect>) -> Result<()> {
    let (changed, list) = vouch::defects(corpus.dir())?;
    found.extend(changed.into_iter().map(|(file, what)| defect(DefectKind::Damage, file, what, BY_RESTORING)));
    if let Some(what) = list {
        let what = format!("{what}; the manifests cannot be verified");
        found.push(defect(DefectKind::Derived, vouch::MANIFESTS, what, BY_MEND));
    }
    for broken in protection::broken(corpus)? {
        let file = broken.path.strip_prefix(corpus.dir()).unwrap_or(&broken.path).display().to_string();
        found.push(defect(DefectKind::Derived, file, broken.what, BY_MEND));
    }
    Ok(())
}

fn check_texts(corpus: &Corpus, found: &mut Vec<Defect>) -> Result<()> {
    let texts = match Texts::read(corpus.dir()) {
        Ok(texts) if texts.uuid == corpus.uuid() => texts,
        Ok(_) => {
            found.push(defect(DefectKind::Derived, TEXTS, "it describes another index", BY_MEND));
            return Ok(());
        }
        Err(error) => {
            let what = format!("{}; the texts cannot be verified", error.in_full());
            found.push(defect(DefectKind::Derived, TEXTS, what, BY_MEND));
            return Ok(());
        }
    };
    let tables = match tables(corpus) {
        Ok(tables) => tables,
        // Said of the generations.
        Err(_) => vec![corpus.table().latest()?],
    };
    let (needed, table) = (needed(&tables)?, corpus.table());
    let there = |file: &String| table.data_dir().join(file).exists() || table.deletions_dir().join(file).exists();
    let (untold, gone): (Vec<String>, Vec<String>) = texts.missing(&tables)?.into_iter().partition(there);
    if let Some(file) = untold.first() {
        found.push(defect(DefectKind::Derived, TEXTS, format!("it does not tell of `{file}`"), BY_MEND));
    }
    // Mending cannot tell what they were.
    for file in &gone {
        if still_needed(&tables, file)? {
            found.push(defect(DefectKind::Damage, DATASET, format!("`{file}` is gone"), BY_RESTORING));
        }
    }
    let places = [("data", table.data_dir(), texts.files), ("_deletions", table.deletions_dir(), texts.deletions)];
    for (place, dir, files) in places {
        // Of files that no version needs any more, or needs yet, nothing is expected.
        for file in files.iter().filter(|file| needed.contains(&file.file)) {
            if let Some(what) = changed(&dir.join(&file.file), file.bytes, &file.blake3)
                && still_needed(&tables, &file.file)?
            {
                found.push(defect(DefectKind::Damage, format!("{DATASET}/{place}/{}", file.file), what, BY_RESTORING));
            }
        }
    }
    Ok(())
}

/// Whether one of these versions needs a file and is still there: a writer may have retired all that did since they were listed.
fn still_needed(tables: &[Table], file: &str) -> Result<bool> {
    for table in tables {
        if table.files().contains(file) && table.lists(table.version())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `seen` are files that an earlier state shares: they are not looked at again.
fn check_generation(corpus: &Corpus, known: &Known, seen: &mut BTreeSet<String>, found: &mut Vec<Defect>) {
    let place = format!("{GENERATIONS}/{}", known.sidecar_name());
    let first = seen.insert(place.clone());
    let before = found.len();
    match &known.manifest {
        Err(what) if first => {
            let what = format!("generation {} has no usable graph: {what}", known.number);
            found.push(defect(DefectKind::Derived, &place, what, BY_MEND));
        }
        Err(_) => {}
        Ok(manifest) => {
            for file in &manifest.vectors {
                if seen.insert(file.file.clone())
                    && let Some(what) = changed(&known.table.data_dir().join(&file.file), file.bytes, &file.blake3)
                {
                    found.push(defect(DefectKind::Damage, data_file(&file.file), what, EMBED_AGAIN));
                }
            }
            let sidecar = corpus.dir().join(&place);
            if first && let Err(what) = read_graph(&sidecar, manifest.len as usize, &manifest.graph_blake3) {
                found.push(defect(DefectKind::Derived, format!("{place}/{GRAPH}"), what, BY_MEND));
            }
            if !known.described() {
                let what = format!("it does not tell of passages appended to generation {}", known.number);
                found.push(defect(DefectKind::Derived, &place, what, BY_MEND));
            }
        }
    }
    if found[before..].iter().any(|defect| defect.kind == DefectKind::Damage) {
        return;
    }
    match check_vectors(known) {
        Err(error) => found.push(defect(DefectKind::Damage, DATASET, error.in_full(), EMBED_AGAIN)),
        Ok(vectors) if first => {
            for (file, what) in held::defects(corpus.uuid(), known, &vectors) {
                found.push(defect(DefectKind::Derived, format!("{place}/{file}"), what, BY_MEND));
            }
        }
        Ok(_) => {}
    }
}

const EMBED_AGAIN: &str = "restore the index from a copy, or embed the corpus again into a new one";

fn check_vectors(known: &Known) -> Result<Aligned<f32>> {
    let vectors = load_vectors(known, known.rows.len())?;
    let number = known.table.generation_number()?;
    match number == known.number {
        true => Ok(vectors),
        false => Err(crate::Error::corrupt(DATASET, format!("generation {} calls itself {number}", known.number))),
    }
}

fn check_current(corpus: &Corpus, known: &[Known], found: &mut Vec<Defect>) {
    let Some(newest) = known.last() else { return };
    let file = format!("{GENERATIONS}/{CURRENT}");
    let expected = newest.sidecar_name();
    let what = match std::fs::read(corpus.dir().join(&file)) {
        Ok(content) if content == format!("{expected}\n").as_bytes() => return,
        Ok(_) => format!("it does not name the newest generation, `{expected}`"),
        Err(error) => format!("it cannot be read: {error}"),
    };
    found.push(defect(DefectKind::Derived, file, what, BY_MEND));
}

fn check_journal(corpus: &Corpus, found: &mut Vec<Defect>) -> Result<BTreeSet<String>> {
    let spared = resumable(corpus)?;
    let Some(entries) = journal::read(corpus.dir())? else { return Ok(spared) };
    let file = format!("{GENERATIONS}/{}", journal::JOURNAL);
    let newest = corpus.table().latest()?.version();
    let stale = entries.header.as_ref().is_none_or(|header| header.read_version != newest);
    // What a crash tore is the last entry: those before it still count.
    let (what, mend) = if stale || (entries.torn && spared.is_empty()) {
        let what = "the journal of a generation that cannot be taken up again as a whole";
        (what.to_string(), "`ragtune index check --mend --index DIR` removes it")
    } else {
        let fragments = corpus.fragments().len();
        let what = format!("a generation was interrupted after {} of {fragments} fragments", spared.len());
        (what, "run the same command again to go on from there; another refresh discards it")
    };
    found.push(defect(DefectKind::Leftover, file, what, mend));
    Ok(spared)
}

/// What is wrong with a file that was written with this length and checksum.
pub(crate) fn changed(path: &Path, bytes: u64, blake3: &str) -> Option<String> {
    match digest(path) {
        Ok((length, _)) if length != bytes => Some(format!("it has {length} bytes, {bytes} were written")),
        Ok((_, found)) if found != blake3 => Some("its content is not what was written".into()),
        Ok(_) => None,
        Err(error) => Some(error.in_full()),
    }
}

fn data_file(file: &str) -> String {
    format!("{DATASET}/data/{file}")
}

fn defect(kind: DefectKind, file: impl Into<String>, what: impl Into<String>, mend: &str) -> Defect {
    Defect { kind, file: file.into(), what: what.into(), mend: mend.into() }
}
