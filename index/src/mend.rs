//! Repairing what can be derived again, and removing what killed processes left.

use std::path::Path;

use ragtune_nearest::GraphParams;

use crate::adopt::{complete, nearest, params_of};
use crate::check::{leftover_files, resumable};
use crate::corpus::Corpus;
use crate::durable::{name, remove};
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::graph_plan::GraphPlan;
use crate::held;
use crate::journal;
use crate::lexical;
use crate::manifest::{Manifest, sidecars};
use crate::protection;
use crate::publish::{CommitStage, publish};
use crate::retire::retire;
use crate::sealed;
use crate::sidecar::salvage;
use crate::survey::Known;
use crate::table::Table;
use crate::texts::{TEXTS, Texts};
use crate::torn::DAMAGED;
use crate::unreadable;
use crate::vouch;

/// See [`Corpus::mend`] and [`Corpus::mend_alike`], which has no parameters for graphs that nothing is known of; the caller holds
/// the lock.
pub(crate) fn mend(
    corpus: &Corpus,
    otherwise: Option<&GraphParams>,
    observe: &mut dyn FnMut(CommitStage),
) -> Result<Vec<String>> {
    let (dir, uuid) = (corpus.dir(), corpus.uuid());
    refuse_newer(dir)?;
    vouch::verify_newest(dir)?;
    let mut done = Vec::new();
    for version in unreadable::drop_versions(dir, &corpus.table().latest()?)? {
        done.push(format!("dropped version {version}, whose manifest is damaged and which nobody keeps"));
    }
    // Before anything is retired: what somebody keeps must stay.
    for broken in protection::broken(corpus)? {
        done.push(protection::restore(corpus, &broken, &corpus.survey()?)?);
    }
    for known in corpus.survey()? {
        if let Some(place) = salvage(dir, uuid, &known)? {
            done.push(format!("put `{}` in its place, which a crash had left beside it", name(&place)));
        }
    }
    let spared = resumable(corpus)?;
    let all = unmended(corpus)?;
    for known in &all {
        // As the graph was, as the caller says, or as the graphs beside it are.
        let params =
            params_of(known).or(otherwise.copied()).or_else(|| nearest(&all, known.number)).unwrap_or_default();
        match mend_one((dir, uuid), known, &params, observe) {
            Ok(lines) => done.extend(lines),
            // Damage, which `check` reports. It must not keep the others from being mended.
            Err(error) if is_damage(&error) => {
                let (number, version) = (known.number, known.table.version());
                done.push(format!("left generation {number} of version {version} as it is: {}", error.in_full()));
            }
            Err(error) => return Err(error),
        }
    }
    if journal::read(dir)?.is_some() && spared.is_empty() {
        journal::discard(dir)?;
        done.push("removed the journal of a generation that cannot be taken up again".into());
    }
    for left in leftover_files(corpus, &corpus.survey()?, &spared)? {
        // A half-removed version is no file; retiring below removes it.
        remove(&dir.join(&left.file))?;
        done.push(format!("removed `{}`: {}", left.file, left.what));
    }
    if dir.join(DAMAGED).exists() {
        remove(&dir.join(DAMAGED))?;
        done.push(format!("removed `{DAMAGED}`"));
    }
    let tables = tables(corpus)?;
    // Files that it does not tell of, as they are now: what happened to them before cannot be told any more.
    match Texts::read(dir).ok().filter(|texts| texts.uuid == uuid) {
        None => {
            let none = Texts::none(uuid);
            Texts::of(uuid, &tables, &none.missing(&tables)?)?.write(dir)?;
            done.push(format!("wrote `{TEXTS}` anew from the texts as they are"));
        }
        Some(texts) => {
            let missing = Texts::of(uuid, &tables, &texts.missing(&tables)?)?;
            let count = missing.files.len() + missing.deletions.len();
            if count > 0 {
                texts.with(missing).write(dir)?;
                done.push(format!("noted in `{TEXTS}` files as they are: {count}"));
            }
        }
    }
    if let Some(defect) = lexical::defect(corpus)? {
        lexical::remake(corpus)?;
        done.push(format!("made the index of words anew: {defect}"));
    }
    retire(dir, uuid, &corpus.table().latest()?, &spared)?;
    vouch::remember(dir)?;
    Ok(done)
}

/// Repairs what lies beside one state.
fn mend_one(
    (dir, uuid): (&Path, &str),
    known: &Known,
    params: &GraphParams,
    observe: &mut dyn FnMut(CommitStage),
) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let generation = Generation::load(known, known.rows.len())?;
    if let Some(defect) = generation.graph_defect() {
        let made = publish(dir, uuid, known, &[], (params, GraphPlan::Build), observe)?;
        done.push(format!("rebuilt the graph of generation {}: {defect}", made.number()));
    } else if !known.described() {
        complete(dir, uuid, known, (known, &[]), params, observe)?;
        done.push(format!("noted in generation {} the passages appended to it", known.number));
    } else if let Ok(graph) = &generation.shared.graph {
        for (file, defect) in held::defects(uuid, known, generation.vectors()) {
            held::remake(uuid, known, file, generation.vectors(), graph)?;
            done.push(format!("made `{file}` of generation {} anew: {defect}", known.number));
        }
    }
    Ok(done)
}

/// Whether it is the content of files that is wrong, not the moment.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Storage { .. }) && !error.out_of_space()
}

/// Mending replaces what it cannot read. What a newer program wrote is whole, and must not be.
fn refuse_newer(dir: &Path) -> Result<()> {
    sealed::known(Texts::read(dir))?;
    vouch::list(dir)?;
    sidecars(dir)?.iter().try_for_each(|sidecar| sealed::known(Manifest::read(sidecar)).map(drop))
}

/// The retained states, each sidecar once: those of one are over the same vectors. The newest of them counts: what is
/// damaged of the earlier ones must not keep it from being mended.
fn unmended(corpus: &Corpus) -> Result<Vec<Known>> {
    let mut known = corpus.survey()?;
    known.reverse();
    known.dedup_by(|earlier, later| earlier.files == later.files);
    known.reverse();
    Ok(known)
}

/// The retained versions, and the newest.
pub(crate) fn tables(corpus: &Corpus) -> Result<Vec<Table>> {
    let mut tables = vec![corpus.table().latest()?];
    tables.extend(corpus.survey()?.into_iter().map(|known| known.table));
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::MANIFEST;
    use crate::passage::{Passage, Source};
    use crate::sealed::tests::make_newer;
    use crate::{CreateOptions, Fingerprint};

    /// What one command did.
    type Outcome = Result<()>;

    #[test]
    fn a_sealed_manifest_of_more_passages_than_there_are_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let by = Fingerprint::new([("weights".to_string(), "x".to_string())].into());
        let passage = |id: &str| Ok::<_, Error>(Passage { id: id.into(), title: String::new(), text: "t".into() });
        let source = Source { name: "c".into(), blake3: "0".into() };
        let passages = [passage("1"), passage("2")].into_iter();
        let corpus = Corpus::create(dir.path(), &source, passages, &CreateOptions::default()).unwrap();
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &by, 1).unwrap();
        writer.write(&corpus.fragments()[0], &[1.0, 1.0]).unwrap();
        writer.commit(&GraphParams::default(), GraphPlan::Build, &mut |_| {}).unwrap();
        let sidecar = sidecars(corpus.dir()).unwrap().remove(0);
        let manifest = Manifest::read(&sidecar).unwrap();
        sealed::write(&sidecar.join(MANIFEST), &Manifest { len: 3, ..manifest }).unwrap();
        let generation = corpus.current().unwrap().unwrap();
        assert!(generation.graph_defect().unwrap().contains("tells of 3 passages"), "{:?}", generation.graph_defect());
        assert_eq!(corpus.stats().unwrap().outside_graph, 0);
        let more = [passage("3")].into_iter();
        let appended = corpus.append(&lock, &by, 1, more, &mut |_| Ok(vec![1.0])).unwrap();
        assert!(appended.graph_built && appended.outside_graph == 0, "{appended:?}");
    }

    #[test]
    fn what_a_newer_program_wrote_is_refused_and_stays() {
        let by = Fingerprint::new([("weights".to_string(), "x".to_string())].into());
        let passages = |ids: [&'static str; 2]| {
            ids.map(|id| Ok::<_, Error>(Passage { id: id.into(), title: String::new(), text: "t".into() })).into_iter()
        };
        let mend = |corpus: &Corpus| corpus.mend_alike(&corpus.lock("a test")?, &mut |_| {}).map(drop);
        let append = |corpus: &Corpus| {
            let lock = corpus.lock("a test")?;
            corpus.append(&lock, &by, 1, passages(["3", "4"]), &mut |_| Ok(vec![1.0, 1.0])).map(drop)
        };
        let delete = |corpus: &Corpus| corpus.delete(&corpus.lock("a test")?, &["1".to_string()]).map(drop);
        let compact =
            |corpus: &Corpus| corpus.compact(&corpus.lock("a test")?, &GraphParams::default(), &mut |_| {}).map(drop);
        let open = |corpus: &Corpus| Corpus::open(corpus.dir()).map(drop);
        type Commands<'c> = &'c [&'c dyn Fn(&Corpus) -> Outcome];
        let cases: [(&str, Commands<'_>); 3] =
            [(TEXTS, &[&mend, &append, &delete]), (vouch::MANIFESTS, &[&mend, &open]), (MANIFEST, &[&mend, &compact])];
        for (file, commands) in cases {
            let dir = tempfile::tempdir().unwrap();
            let source = Source { name: "c".into(), blake3: "0".into() };
            let corpus = Corpus::create(dir.path(), &source, passages(["1", "2"]), &CreateOptions::default()).unwrap();
            {
                let lock = corpus.lock("a test").unwrap();
                let mut writer = corpus.begin(&lock, &by, 1).unwrap();
                writer.write(&corpus.fragments()[0], &[1.0, 1.0]).unwrap();
                writer.commit(&GraphParams::default(), GraphPlan::Build, &mut |_| {}).unwrap();
            }
            let place = match file {
                MANIFEST => sidecars(corpus.dir()).unwrap().remove(0).join(file),
                _ => dir.path().join(file),
            };
            make_newer(&place);
            let newer = std::fs::read(&place).unwrap();
            for command in commands {
                let error = command(&corpus).unwrap_err();
                assert!(matches!(&error, Error::Format { found, .. } if found == "99"), "{file}: {error:?}");
                assert_eq!(std::fs::read(&place).unwrap(), newer, "{file}");
            }
            assert_eq!(corpus.table().latest().unwrap().rows().unwrap(), *corpus.rows(), "{file}: nothing was changed");
        }
    }
}
