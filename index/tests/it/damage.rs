//! Files cut short or with flipped bits: said, mended, never a panic, and search stays right.

use std::fs;
use std::path::{Path, PathBuf};

use ragtune_index::*;

use crate::common::*;
use crate::generations::sidecars;

const DIM: usize = 16;
const N: usize = 200;

struct Fixture {
    dir: tempfile::TempDir,
    corpus: Corpus,
    questions: Vec<f32>,
    truth: Vec<Vec<Hit>>,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let generation = embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 1));
    generation.record("build", &serde_json::json!(1.5)).unwrap();
    let questions = vectors(5, DIM, 2);
    let truth = generation.search(&questions, 10, Search::Exact, Trust::StaleAllowed).unwrap();
    Fixture { dir, corpus, questions, truth }
}

impl Fixture {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn sidecar(&self) -> PathBuf {
        sidecars(self.path()).remove(0)
    }

    /// Every cut and some flipped bits of a file, each with the file in place; the file is restored afterwards.
    fn damage(&self, file: &Path, step: usize, mut see: impl FnMut(&str)) {
        let good = fs::read(file).unwrap();
        for length in (0..good.len()).step_by(step) {
            fs::write(file, &good[..length]).unwrap();
            see(&format!("{} cut to {length}", file.display()));
        }
        for byte in (0..good.len()).step_by(step) {
            let mut bytes = good.clone();
            bytes[byte] ^= 1 << (byte % 8);
            fs::write(file, &bytes).unwrap();
            see(&format!("{} with byte {byte} changed", file.display()));
        }
        fs::remove_file(file).unwrap();
        see(&format!("{} missing", file.display()));
        fs::write(file, good).unwrap();
    }

    fn search_is_right(&self, context: &str) -> Generation {
        let generation = self.corpus.current().unwrap().unwrap();
        assert_eq!((generation.number(), generation.fingerprint()), (1, &encoder("a")), "{context}");
        let how = if generation.graph().is_some() { Search::Exact } else { Search::Graph { ef: 64 } };
        assert_eq!(generation.search(&self.questions, 10, how, Trust::StaleAllowed).unwrap(), self.truth, "{context}");
        generation
    }
}

#[test]
fn a_damaged_graph_is_announced_and_exact_search_answers() {
    let fixture = fixture();
    fixture.damage(&fixture.sidecar().join("graph.bin"), 397, |context| {
        let generation = fixture.search_is_right(context);
        assert!(generation.graph().is_none(), "{context}");
        assert!(generation.graph_defect().unwrap().contains("graph.bin"), "{context}");
        let found = check(fixture.path()).unwrap();
        assert_eq!(found.len(), 1, "{context}: {found:?}");
        assert_eq!(found[0].kind, DefectKind::Derived);
    });
    assert!(check(fixture.path()).unwrap().is_empty());
}

#[test]
fn a_damaged_manifest_costs_the_graph_and_nothing_else() {
    let fixture = fixture();
    fixture.damage(&fixture.sidecar().join("MANIFEST.json"), 61, |context| {
        let generation = fixture.search_is_right(context);
        let found = check(fixture.path()).unwrap();
        // A changed space is no damage.
        assert_eq!(generation.graph_defect().is_some(), !found.is_empty(), "{context}: {found:?}");
        assert!(found.iter().all(|defect| defect.kind == DefectKind::Derived), "{context}: {found:?}");
        assert!(
            generation.graph_defect().is_some() || context.contains("changed") || context.contains("cut"),
            "{context}"
        );
    });
}

#[test]
fn a_damaged_pointer_is_reported_and_not_needed() {
    let fixture = fixture();
    fixture.damage(&fixture.path().join("generations/CURRENT"), 1, |context| {
        assert!(fixture.search_is_right(context).graph().is_some(), "{context}");
        let found = check(fixture.path()).unwrap();
        assert_eq!(found.len(), 1, "{context}: {found:?}");
        assert!(found[0].file.ends_with("CURRENT"));
    });
}

#[test]
fn a_damaged_journal_costs_at_most_the_staged_work() {
    let fixture = fixture();
    let (by, given) = (encoder("b"), vectors(N, DIM, 7));
    let lock = fixture.corpus.lock("a test").unwrap();
    let mut writer = fixture.corpus.begin(&lock, &by, DIM).unwrap();
    for fragment in &writer.pending()[..2] {
        writer.write(fragment, rows(fragment, DIM, &given)).unwrap();
    }
    drop(writer);
    drop(lock);
    let journal = fixture.path().join("generations/journal.jsonl");
    fixture.damage(&journal, 101, |context| {
        fixture.search_is_right(context);
        let found = check(fixture.path()).unwrap();
        assert!(found.iter().all(|defect| defect.kind == DefectKind::Leftover), "{context}: {found:?}");
    });
    let good = fs::read(&journal).unwrap();
    for length in [good.len() - 1, good.len() / 2, 10] {
        fs::write(&journal, &good[..length]).unwrap();
        let lock = fixture.corpus.lock("a test").unwrap();
        let writer = fixture.corpus.begin(&lock, &by, DIM).unwrap();
        assert!(writer.pending().len() > fixture.corpus.fragments().len() - 2, "cut to {length}");
    }
    let generation = embed(&fixture.corpus, &by, DIM, &given);
    assert!(same(generation.vectors(), &given));
    only_leftovers(fixture.path(), "after a damaged journal");
}

#[test]
fn mending_rebuilds_the_same_graph_and_keeps_the_notes() {
    let fixture = fixture();
    let graph = fixture.sidecar().join("graph.bin");
    let good = fs::read(&graph).unwrap();
    let damages: [&dyn Fn(); 3] = [
        &|| fs::write(&graph, &good[..good.len() / 2]).unwrap(),
        &|| fs::write(fixture.sidecar().join("MANIFEST.json"), "{}").unwrap(),
        &|| fs::remove_file(fixture.path().join("generations/CURRENT")).unwrap(),
    ];
    for damage in damages {
        damage();
        assert!(!check(fixture.path()).unwrap().is_empty());
        only_leftovers(fixture.path(), "after mending");
        assert_eq!(fs::read(&graph).unwrap(), good);
        let generation = fixture.search_is_right("after mending");
        assert!(generation.graph().is_some());
        assert_eq!(generation.recorded("build").unwrap(), Some(serde_json::json!(1.5)));
    }
    fs::remove_dir_all(fixture.sidecar()).unwrap();
    let defect = fixture.search_is_right("without a sidecar").graph_defect().unwrap().to_string();
    assert!(defect.contains("never finished or is gone"), "{defect}");
    only_leftovers(fixture.path(), "without a sidecar");
    assert_eq!(fs::read(&graph).unwrap(), good);
}

#[test]
fn a_sidecar_of_other_vectors_is_not_used() {
    let fixture = fixture();
    let other = tempfile::tempdir().unwrap();
    let corpus = create(other.path(), N);
    embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 5));
    let theirs = sidecars(other.path()).remove(0);
    for file in ["graph.bin", "MANIFEST.json"] {
        fs::copy(theirs.join(file), fixture.sidecar().join(file)).unwrap();
    }
    let defect = fixture.search_is_right("with a foreign sidecar").graph_defect().unwrap().to_string();
    assert!(defect.contains("describes other vectors"), "{defect}");
}

#[test]
fn changed_texts_and_vectors_are_found_by_check() {
    let fixture = fixture();
    let data = fixture.path().join("corpus.lance/data");
    for file in fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()) {
        let good = fs::read(&file).unwrap();
        let mut bytes = good.clone();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 16;
        fs::write(&file, &bytes).unwrap();
        let found = check(fixture.path()).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(found.iter().any(|d| d.kind == DefectKind::Damage && d.file.ends_with(name)), "{name}: {found:?}");
        fs::write(&file, good).unwrap();
    }
    assert!(check(fixture.path()).unwrap().is_empty());
}

#[test]
fn a_half_written_newest_manifest_is_set_aside() {
    for torn in ["", "half a manifest"] {
        let fixture = fixture();
        let versions = fixture.path().join("corpus.lance/_versions");
        let newest = |versions: &Path| {
            let mut all: Vec<_> = fs::read_dir(versions).unwrap().map(|entry| entry.unwrap().path()).collect();
            all.sort();
            all.remove(0)
        };
        let name: u64 = newest(&versions).file_stem().unwrap().to_str().unwrap().parse().unwrap();
        fs::write(versions.join(format!("{:020}.manifest", name - 1)), torn).unwrap();
        let found = check(fixture.path()).unwrap();
        assert!(!found.is_empty() && found.iter().all(|d| d.kind == DefectKind::Leftover), "{found:?}");
        let corpus = Corpus::open(fixture.path()).unwrap();
        assert!(same(corpus.current().unwrap().unwrap().vectors(), &vectors(N, DIM, 1)));
        only_leftovers(fixture.path(), "after a torn manifest");
        let given = vectors(N, DIM, 8);
        assert!(same(embed(&corpus, &encoder("b"), DIM, &given).vectors(), &given));
    }
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let fixture = fixture();
    let manifest = fixture.sidecar().join("MANIFEST.json");
    let text = fs::read_to_string(&manifest).unwrap();
    assert!(text.contains("\"format\": 1"), "{text}");
    fs::write(&manifest, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    // Its checksum no longer holds; a file that was really written by a newer program is tested beside `sealed`.
    assert!(fixture.search_is_right("with a changed format").graph_defect().is_some());
}

#[test]
fn a_manifest_that_was_whole_is_not_taken_for_one_that_a_power_cut_left() {
    let fixture = fixture();
    let versions = fixture.path().join("corpus.lance/_versions");
    let mut manifests: Vec<_> = fs::read_dir(&versions).unwrap().map(|entry| entry.unwrap().path()).collect();
    manifests.retain(|path| path.extension().is_some_and(|kind| kind == "manifest"));
    manifests.sort();
    let newest = &manifests[0];
    let good = fs::read(newest).unwrap();
    for length in [0, good.len() / 2, good.len() - 1] {
        fs::write(newest, &good[..length]).unwrap();
        let error = Corpus::open(fixture.path()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.hint().is_some(), "{error:?}");
        assert!(error.to_string().contains("whole when its commit was reported"), "{error}");
        assert!(newest.exists() && !fixture.path().join("damaged").exists());
        let found = check(fixture.path()).unwrap();
        assert!(found.iter().any(|defect| defect.kind == DefectKind::Damage), "{found:?}");
    }
    fs::write(newest, good).unwrap();
    fixture.search_is_right("with the manifest restored");
    assert!(check(fixture.path()).unwrap().is_empty());
}

/// Many links, and a beam and a measurement that are nobody's defaults.
const ODD: GraphParams = GraphParams { links: 32, ef_construction: 90, probes: 33, ef: 50 };

fn embed_by(corpus: &Corpus, by: &str, params: &GraphParams, given: &[f32]) {
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &encoder(by), DIM).unwrap();
    for fragment in writer.pending() {
        writer.write(&fragment, rows(&fragment, DIM, given)).unwrap();
    }
    writer.commit(params, GraphPlan::Build, &mut |_| {}).unwrap();
}

fn params_now(corpus: &Corpus) -> GraphParams {
    let graph = corpus.generations().unwrap().pop().unwrap().graph.unwrap();
    GraphParams { links: graph.links, ef_construction: graph.ef_construction, probes: graph.probes, ef: graph.ef }
}

#[test]
fn a_graph_is_built_again_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    embed_by(&corpus, "a", &ODD, &vectors(N, DIM, 1));
    embed_by(&corpus, "b", &ODD, &vectors(N, DIM, 2));
    let sidecar = sidecars(dir.path()).remove(1);
    let (graph, manifest) = (sidecar.join("graph.bin"), sidecar.join("MANIFEST.json"));
    let good = fs::read(&graph).unwrap();
    let mend = |alike: bool| {
        let lock = corpus.lock("a test").unwrap();
        match alike {
            true => corpus.mend_alike(&lock, &mut |_| {}).unwrap(),
            false => corpus.mend(&lock, &params(), &mut |_| {}).unwrap(),
        }
    };
    for alike in [true, false] {
        fs::write(&graph, "rtgraph").unwrap();
        assert_eq!(mend(alike).len(), 1);
        assert_eq!(params_now(&corpus), ODD, "its manifest tells");
        assert_eq!(fs::read(&graph).unwrap(), good);
    }
    fs::remove_file(&manifest).unwrap();
    mend(true);
    assert_eq!(params_now(&corpus), ODD, "that of the generation before tells");
    fs::remove_file(&manifest).unwrap();
    mend(false);
    assert_eq!(params_now(&corpus), params(), "the caller tells");
}

#[test]
fn a_graph_that_is_gone_is_built_by_the_append_or_the_rollback_that_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let all = vectors(N + 20, DIM, 1);
    let corpus = create(dir.path(), N);
    embed_by(&corpus, "a", &ODD, &all[..N * DIM]);
    embed_by(&corpus, "b", &ODD, &all[..N * DIM]);
    let sidecar = |number: u32| {
        let of = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("g-{number}-"));
        sidecars(dir.path()).into_iter().rfind(of).unwrap()
    };
    fs::remove_file(sidecar(1).join("graph.bin")).unwrap();
    let lock = corpus.lock("a test").unwrap();
    assert_eq!(corpus.rollback(&lock, 1).unwrap(), 3);
    drop(lock);
    let back = corpus.current().unwrap().unwrap();
    assert_eq!((back.number(), back.graph_defect()), (3, None));
    assert_eq!(params_now(&corpus), ODD);

    fs::remove_file(sidecar(3).join("graph.bin")).unwrap();
    let appended = crate::changing::append(&corpus, &encoder("a"), N..N + 10, &all);
    assert!(appended.graph_built && appended.outside_graph == 0, "{appended:?}");
    let corpus = corpus.reopen().unwrap();
    assert_eq!(corpus.current().unwrap().unwrap().graph_defect(), None);
    only_leftovers(dir.path(), "after an append without a graph");

    // Without a manifest nobody knows how it was built, but for the generation before.
    let newest = fs::read_to_string(dir.path().join("generations/CURRENT")).unwrap();
    fs::remove_file(dir.path().join("generations").join(newest.trim()).join("MANIFEST.json")).unwrap();
    let appended = crate::changing::append(&corpus, &encoder("a"), N + 10..N + 20, &all);
    assert!(appended.graph_built, "{appended:?}");
    assert_eq!(params_now(&corpus), ODD);
}

#[test]
fn notes_outlive_a_crash_between_the_renames_of_a_sidecar_that_is_replaced() {
    for how in ["mending", "compacting", "collecting"] {
        let fixture = fixture();
        let sidecar = fixture.sidecar();
        let place = |prefix: &str| {
            let name = sidecar.file_name().unwrap().to_str().unwrap();
            sidecar.with_file_name(format!("{prefix}{name}"))
        };
        copy(&sidecar, &place(".tmp-"));
        fs::rename(&sidecar, place(".tmp-old-")).unwrap();
        fixture.search_is_right("without its sidecar");
        match how {
            // As `index build` and a compaction do, which make the sidecar anew.
            "compacting" => {
                let lock = fixture.corpus.lock("a test").unwrap();
                fixture.corpus.compact(&lock, &params(), &mut |_| {}).unwrap();
            }
            // What looks like a leftover is all there is.
            "collecting" => {
                let lock = fixture.corpus.lock("a test").unwrap();
                let planned = fixture.corpus.gc(&lock, true).unwrap();
                assert!(place(".tmp-").exists() && place(".tmp-old-").exists());
                assert_eq!(fixture.corpus.gc(&lock, false).unwrap().files, planned.files);
            }
            _ => only_leftovers(fixture.path(), "after mending"),
        }
        let generation = fixture.search_is_right("with its sidecar again");
        assert_eq!(generation.graph_defect(), None);
        assert_eq!(generation.recorded("build").unwrap(), Some(serde_json::json!(1.5)), "{how}");
        only_leftovers(fixture.path(), "in the end");
    }
}

/// What a crash between the two renames leaves of a sidecar that is replaced.
fn half_replaced(sidecar: &Path) {
    let name = sidecar.file_name().unwrap().to_str().unwrap();
    copy(sidecar, &sidecar.with_file_name(format!(".tmp-{name}")));
    fs::rename(sidecar, sidecar.with_file_name(format!(".tmp-old-{name}"))).unwrap();
}

#[test]
fn notes_outlive_such_a_crash_where_what_comes_next_has_other_files() {
    for how in ["appending", "deleting", "compacting", "going back"] {
        let fixture = fixture();
        match how {
            "compacting" => assert_eq!(crate::changing::delete(&fixture.corpus, [3]).passages, 1),
            "going back" => drop(embed(&fixture.corpus, &encoder("b"), DIM, &vectors(N, DIM, 9))),
            _ => {}
        }
        half_replaced(&fixture.sidecar());
        let corpus = fixture.corpus.reopen().unwrap();
        match how {
            "appending" => {
                crate::changing::append(&corpus, &encoder("a"), N..N + 5, &vectors(N + 5, DIM, 1));
            }
            // A whole fragment.
            "deleting" => assert_eq!(crate::changing::delete(&corpus, 0..ROWS).passages, ROWS),
            "compacting" => assert_eq!(crate::past::compact(&corpus).dropped, 1),
            _ => assert_eq!(corpus.rollback(&corpus.lock("a test").unwrap(), 1).unwrap(), 3),
        }
        let corpus = corpus.reopen().unwrap();
        let generation = corpus.current().unwrap().unwrap();
        assert_eq!(generation.recorded("build").unwrap(), Some(serde_json::json!(1.5)), "{how}");
        only_leftovers(fixture.path(), how);
    }
}

#[test]
fn a_newest_manifest_that_is_lost_stops_whoever_has_the_index_open() {
    let fixture = fixture();
    let (corpus, by, given) = (&fixture.corpus, encoder("a"), vectors(N + 5, DIM, 1));
    embed(corpus, &encoder("b"), DIM, &vectors(N, DIM, 2));
    let newest = all_files(&fixture.path().join("corpus.lance/_versions")).remove(0);
    let good = fs::read(&newest).unwrap();
    fs::remove_file(&newest).unwrap();
    let before = all_files(fixture.path());
    {
        let lock = corpus.lock("a test").unwrap();
        let more = (N..N + 5).map(|at| Ok::<_, Error>(passage(at)));
        let mut embedded = |run: &[Passage]| Ok(given[..run.len() * DIM].to_vec());
        let outcomes = [
            corpus.gc(&lock, false).map(drop),
            corpus.mend(&lock, &params(), &mut |_| {}).map(drop),
            corpus.begin(&lock, &by, DIM).map(drop),
            corpus.append(&lock, &by, DIM, more, &mut embedded).map(drop),
            corpus.delete(&lock, &[passage(1).id]).map(drop),
            corpus.compact(&lock, &params(), &mut |_| {}).map(drop),
            corpus.rollback(&lock, 1).map(drop),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains("it is gone") && error.hint().is_some(), "{error:?}");
        }
    }
    assert_eq!(all_files(fixture.path()), before);
    fs::write(&newest, good).unwrap();
    assert_eq!(corpus.current().unwrap().unwrap().number(), 2);
    assert!(check(fixture.path()).unwrap().is_empty(), "{:?}", check(fixture.path()));
}

#[test]
fn damaged_deletions_of_an_earlier_state_stop_neither_the_list_nor_the_mending_of_the_newest() {
    let fixture = fixture();
    crate::changing::delete(&fixture.corpus, [3]);
    let old = all_files(&fixture.path().join("corpus.lance/_deletions")).remove(0);
    crate::changing::delete(&fixture.corpus.reopen().unwrap(), [5]);
    fs::write(&old, "rotten").unwrap();
    let graph = fixture.sidecar().join("graph.bin");
    let good = fs::read(&graph).unwrap();
    fs::write(&graph, "rt").unwrap();
    let corpus = Corpus::open(fixture.path()).unwrap();
    let counts: Vec<_> = corpus.versions().unwrap().iter().map(|info| (info.passages, info.deleted)).collect();
    assert_eq!(counts, [(N - 1, 1), (N - 2, 2)]);
    let done = corpus.mend(&corpus.lock("a test").unwrap(), &params(), &mut |_| {}).unwrap();
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!(fs::read(&graph).unwrap(), good);
    let found = check(fixture.path()).unwrap();
    let name = old.file_name().unwrap().to_str().unwrap();
    assert!(found.len() == 1 && found[0].file.ends_with(name) && found[0].kind == DefectKind::Damage, "{found:?}");
}
