//! Passages that are appended and deleted, against plain vectors in memory.

use std::collections::BTreeMap;
use std::fs;

use ragtune_index::*;

use crate::common::*;

pub const DIM: usize = 16;

/// Appends passages `range` with the vectors of the same ordinals.
pub fn append(corpus: &Corpus, by: &Fingerprint, range: std::ops::Range<usize>, all: &[f32]) -> Appended {
    let lock = corpus.lock("a test").unwrap();
    let mut at = range.start;
    let passages = range.clone().map(|at| Ok::<_, Error>(passage(at)));
    let mut embed = |run: &[Passage]| {
        let these = all[at * DIM..(at + run.len()) * DIM].to_vec();
        at += run.len();
        Ok(these)
    };
    corpus.append(&lock, by, DIM, passages, &mut embed).unwrap()
}

pub fn delete(corpus: &Corpus, ordinals: impl IntoIterator<Item = usize>) -> Deleted {
    let lock = corpus.lock("a test").unwrap();
    let ids: Vec<String> = ordinals.into_iter().map(|at| passage(at).id).collect();
    corpus.delete(&lock, &ids).unwrap()
}

/// The ids of the nearest passages by a plain scan over those that are there.
pub fn nearest(present: &BTreeMap<usize, Vec<f32>>, question: &[f32], k: usize) -> Vec<String> {
    let score = |vector: &[f32]| question.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
    let mut scored: Vec<(f32, usize)> = present.iter().map(|(at, vector)| (score(vector), *at)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.into_iter().take(k).map(|(_, at)| passage(at).id).collect()
}

/// Asserts that an index holds these passages with these vectors and nothing else, and that both searches find them.
pub fn holds(corpus: &Corpus, present: &BTreeMap<usize, Vec<f32>>, context: &str) {
    assert_eq!(corpus.passages(), present.len(), "{context}");
    let ids = corpus.ids().unwrap();
    let live: Vec<&String> = ids.iter().filter(|id| !id.is_empty()).collect();
    let mut expected: Vec<String> = present.keys().map(|at| passage(*at).id).collect();
    let mut found: Vec<String> = live.into_iter().cloned().collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "{context}");
    let generation = corpus.current().unwrap().unwrap();
    assert_eq!(generation.len(), corpus.len(), "{context}");
    for (at, vector) in present {
        let ordinal = corpus.ordinal(&passage(*at).id).unwrap().unwrap();
        assert!(same(generation.vector(ordinal).unwrap(), vector), "{context}: passage {at}");
        assert_eq!(ids[ordinal as usize], passage(*at).id);
    }
    let ordinals: Vec<u32> = present.keys().map(|at| corpus.ordinal(&passage(*at).id).unwrap().unwrap()).collect();
    let texts = corpus.get(&ordinals).unwrap();
    assert_eq!(texts, present.keys().map(|at| passage(*at)).collect::<Vec<_>>(), "{context}");
    let questions = vectors(20, DIM, 77);
    // Few enough that more than 20 passages come on each place in the beam: else the graph is not walked.
    let k = 5.min(present.len());
    let ask = |how| generation.search(&questions, k, how, Trust::StaleAllowed).unwrap();
    let (exact, walk) = (ask(Search::Exact), ask(Search::Graph { ef: k }));
    for (question, hits) in questions.chunks(DIM).zip(&exact) {
        let ordinals: Vec<u32> = hits.iter().map(|hit| hit.ordinal).collect();
        let mut found: Vec<String> = corpus.get(&ordinals).unwrap().into_iter().map(|passage| passage.id).collect();
        let mut expected = nearest(present, question, k);
        // Scores that differ in the last bit may change places.
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{context}");
    }
    let recall = recall_of(&walk, &exact, |question, ordinal| {
        let at: usize = ids[ordinal as usize][1..].parse().unwrap();
        questions[question * DIM..].iter().zip(&present[&at]).map(|(a, b)| a * b).sum()
    });
    assert!(recall >= 0.5, "{context}: the graph finds {recall}");
    assert!(check(corpus.dir()).unwrap().is_empty(), "{context}: {:?}", check(corpus.dir()).unwrap());
}

pub fn model(range: std::ops::Range<usize>, all: &[f32]) -> BTreeMap<usize, Vec<f32>> {
    range.map(|at| (at, all[at * DIM..(at + 1) * DIM].to_vec())).collect()
}

#[test]
fn appended_passages_are_found_at_once_and_nothing_else_moves() {
    let dir = tempfile::tempdir().unwrap();
    let all = vectors(400, DIM, 1);
    let by = encoder("a");
    let before = create(dir.path(), 200);
    embed(&before, &by, DIM, &all[..200 * DIM]);
    let old = before.current().unwrap().unwrap();
    let appended = append(&before, &by, 200..290, &all);
    assert_eq!((appended.passages, appended.fragments, appended.generation, appended.outside_graph), (90, 2, 1, 90));
    let now = before.reopen().unwrap();
    holds(&now, &model(0..290, &all), "after one append");
    let generation = now.current().unwrap().unwrap();
    assert_eq!((generation.number(), generation.dataset_version()), (1, appended.dataset_version));
    assert_eq!(generation.graph_defect(), None, "the graph of the first 200 is used");
    assert_eq!(now.stats().unwrap().outside_graph, 90);
    append(&now, &by, 290..291, &all);
    holds(&now.reopen().unwrap(), &model(0..291, &all), "after a second");

    // A reader that was there before sees what it saw.
    assert_eq!((before.len(), old.len()), (200, 200));
    assert_eq!(before.ordinal("p250").unwrap(), None);
    assert!(before.get(&[250]).is_err());
    assert_eq!(before.get(&[199]).unwrap(), [passage(199)]);
    let lock = before.lock("a test").unwrap();
    assert!(matches!(before.begin(&lock, &by, DIM), Err(Error::Changed { .. })));
    drop(lock);

    // A refresh folds the tail in.
    let given = vectors(291, DIM, 9);
    let refreshed = embed(&now.reopen().unwrap(), &encoder("b"), DIM, &given);
    assert_eq!((refreshed.number(), refreshed.len()), (2, 291));
    holds(&now.reopen().unwrap(), &model(0..291, &given), "after a refresh");
    assert_eq!(now.stats().unwrap().outside_graph, 0);
}

#[test]
fn a_long_tail_is_folded_into_the_graph() {
    let dir = tempfile::tempdir().unwrap();
    let (n, all, by) = (300, vectors(1500, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), n);
    embed(&corpus, &by, DIM, &all[..n * DIM]);
    let appended = append(&corpus, &by, n..1500, &all);
    assert_eq!((appended.fragments, appended.outside_graph), (19, 0));
    let graph = corpus.reopen().unwrap().current().unwrap().unwrap().graph().unwrap().clone();
    assert_eq!((graph.links, graph.ef_construction), (params().links, params().ef_construction));
    holds(&corpus.reopen().unwrap(), &model(0..1500, &all), "after a long append");
}

#[test]
fn what_cannot_be_appended_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(200, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 100);
    let lock = corpus.lock("a test").unwrap();
    let new = || (100..110).map(|at| Ok::<_, Error>(passage(at)));
    let mut good = |run: &[Passage]| Ok(all[..run.len() * DIM].to_vec());
    let error = corpus.append(&lock, &by, DIM, new(), &mut good).unwrap_err();
    assert!(matches!(error, Error::NoVectors { .. }) && error.hint().is_some(), "{error}");
    drop(lock);
    embed(&corpus, &by, DIM, &all[..100 * DIM]);
    let lock = corpus.lock("a test").unwrap();
    let error = corpus.append(&lock, &encoder("b"), DIM, new(), &mut good).unwrap_err();
    assert!(matches!(error, Error::WrongEncoder { number: 1, .. }), "{error}");
    let error = corpus.append(&lock, &by, 3, new(), &mut good).unwrap_err();
    assert!(matches!(error, Error::Dimension { given: 3, expected: DIM, .. }), "{error}");
    let error = corpus.append(&lock, &by, DIM, new().take(0), &mut good).unwrap_err();
    assert!(error.to_string().contains("holds no passage"), "{error}");
    let twice = || new().take(3).chain([Ok(passage(7))]);
    let error = corpus.append(&lock, &by, DIM, twice(), &mut good).unwrap_err();
    assert!(error.to_string().contains("passage 4") && error.to_string().contains("`p7`"), "{error}");
    let error = corpus.append(&lock, &by, DIM, new(), &mut |_| Ok(vec![0.5; 3])).unwrap_err();
    assert!(matches!(error, Error::Dimension { given: 3, expected: 160, .. }), "{error}");
    let mut nan = |run: &[Passage]| Ok(vec![f32::NAN; run.len() * DIM]);
    let error = corpus.append(&lock, &by, DIM, new(), &mut nan).unwrap_err();
    assert!(error.to_string().contains("`p100`"), "{error}");
    let error = corpus.append(&lock, &by, DIM, new(), &mut |_| Err("the encoder is out".into())).unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the encoder is out");
    let torn = || new().take(5).chain([Err(Error::Empty { name: "line 6 is torn".into() })]);
    assert!(matches!(corpus.append(&lock, &by, DIM, torn(), &mut good).unwrap_err(), Error::Passages(_)));
    drop(lock);
    only_leftovers(dir.path(), "after refused appends");
    holds(&corpus, &model(0..100, &all), "after refused appends");
}

#[test]
fn deleted_passages_are_gone_from_every_search() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(300, DIM, 1), encoder("a"));
    let before = create(dir.path(), 300);
    embed(&before, &by, DIM, &all);
    let deleted = delete(&before, [3, 64, 65, 299, 3]);
    assert_eq!((deleted.passages, deleted.left), (4, 296));
    let mut present = model(0..300, &all);
    present.retain(|at, _| ![3, 64, 65, 299].contains(at));
    let now = before.reopen().unwrap();
    holds(&now, &present, "after one deletion");
    assert_eq!(now.deleted(), [3, 64, 65, 299]);
    assert_eq!((now.len(), now.passages(), now.stats().unwrap().deleted), (300, 296, 4));
    assert!(now.is_deleted(64) && !now.is_deleted(66));
    assert_eq!(now.get(&[64, 66, 64]).unwrap(), [passage(64), passage(66), passage(64)], "its row is still there");
    assert_eq!(now.ordinal("p64").unwrap(), None);
    let ids = ["p64".to_string()];
    let lock = now.lock("a test").unwrap();
    assert!(matches!(now.delete(&lock, &ids), Err(Error::UnknownIds { asked: 1, .. })), "it is gone already");
    drop(lock);
    assert_eq!(before.get(&[64]).unwrap(), [passage(64)], "an earlier reader keeps it");
    assert_eq!(before.current().unwrap().unwrap().len(), 300);

    // A whole fragment, then almost all.
    delete(&now, 66..192);
    present.retain(|at, _| !(66..192).contains(at));
    let now = now.reopen().unwrap();
    holds(&now, &present, "after a whole fragment");
    let lock = now.lock("a test").unwrap();
    let rest: Vec<String> = present.keys().map(|at| passage(*at).id).collect();
    assert!(matches!(now.delete(&lock, &rest), Err(Error::Last { passages: 170 })));
    drop(lock);
    delete(&now, present.keys().copied().skip(1).collect::<Vec<_>>());
    let now = now.reopen().unwrap();
    present.retain(|at, _| *at == 0);
    holds(&now, &present, "after all but one");
    let generation = now.current().unwrap().unwrap();
    let error = generation.search(&all[..DIM], 2, Search::Exact, Trust::Same(&by)).unwrap_err();
    assert!(matches!(error, Error::TooMany { k: 2, len: 1 }), "{error}");
}

#[test]
fn unknown_ids_are_named_before_anything_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(100, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 100);
    embed(&corpus, &by, DIM, &all);
    let lock = corpus.lock("a test").unwrap();
    let ids: Vec<String> = ["p1", "nobody", "p2", "nothing"].map(str::to_string).to_vec();
    let error = corpus.delete(&lock, &ids).unwrap_err();
    assert!(error.to_string().contains("2 of the 4") && error.to_string().contains("`nobody`, `nothing`"), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(corpus.delete(&lock, &[]).unwrap().passages, 0);
    drop(lock);
    holds(&corpus.reopen().unwrap(), &model(0..100, &all), "after a refused deletion");
}

#[test]
fn a_passage_is_replaced_by_deleting_and_appending_it() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(300, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 150);
    embed(&corpus, &by, DIM, &all[..150 * DIM]);
    delete(&corpus, [9, 140]);
    let corpus = corpus.reopen().unwrap();
    let lock = corpus.lock("a test").unwrap();
    let again = Passage { text: "A new text.".into(), ..passage(9) };
    let vector = all[200 * DIM..201 * DIM].to_vec();
    let given = std::iter::once(Ok::<_, Error>(again.clone()));
    corpus.append(&lock, &by, DIM, given, &mut |_| Ok(vector.clone())).unwrap();
    drop(lock);
    let corpus = corpus.reopen().unwrap();
    let ordinal = corpus.ordinal("p9").unwrap().unwrap();
    assert_eq!((ordinal, corpus.passages(), corpus.len()), (150, 149, 151));
    assert_eq!(corpus.get(&[ordinal]).unwrap(), [again]);
    // Refreshing embeds what is deleted as well: rows keep their places.
    let given = vectors(151, DIM, 5);
    let made = embed(&corpus, &encoder("b"), DIM, &given);
    assert!(same(made.vectors(), &given));
    let hits = made.search(&given[9 * DIM..10 * DIM], 3, Search::Graph { ef: 500 }, Trust::StaleAllowed).unwrap();
    assert!(hits[0].iter().all(|hit| hit.ordinal != 9 && hit.ordinal != 140), "{hits:?}");
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn damaged_and_missing_deletions_are_damage_and_never_a_wrong_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(100, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 100);
    embed(&corpus, &by, DIM, &all);
    delete(&corpus, [5, 70, 71]);
    let files = fs::read_dir(dir.path().join("corpus.lance/_deletions")).unwrap();
    for file in files.map(|entry| entry.unwrap().path()).collect::<Vec<_>>() {
        let good = fs::read(&file).unwrap();
        for damage in [good[..good.len() / 2].to_vec(), Vec::new(), good.iter().map(|byte| byte ^ 16).collect()] {
            fs::write(&file, damage).unwrap();
            let found = check(dir.path()).unwrap();
            assert!(found.iter().any(|defect| defect.kind == DefectKind::Damage), "{found:?}");
            assert!(Corpus::open(dir.path()).is_err());
        }
        fs::remove_file(&file).unwrap();
        assert!(check(dir.path()).unwrap().iter().any(|defect| defect.kind == DefectKind::Damage));
        fs::write(&file, good).unwrap();
    }
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn an_append_whose_sidecar_was_lost_is_searched_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(300, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 200);
    embed(&corpus, &by, DIM, &all[..200 * DIM]);
    append(&corpus, &by, 200..220, &all);
    let newest = fs::read_to_string(dir.path().join("generations/CURRENT")).unwrap();
    fs::remove_dir_all(dir.path().join("generations").join(newest.trim())).unwrap();
    let now = corpus.reopen().unwrap();
    let generation = now.current().unwrap().unwrap();
    assert_eq!(generation.graph_defect(), None, "the graph of the first passages still serves");
    let found = check(dir.path()).unwrap();
    assert!(!found.is_empty() && found.iter().all(|defect| defect.kind == DefectKind::Derived), "{found:?}");
    only_leftovers(dir.path(), "after a lost sidecar");
    holds(&now, &model(0..220, &all), "mended");
    assert_eq!(now.stats().unwrap().outside_graph, 20);
}

#[test]
fn all_that_was_appended_can_be_deleted_again() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(300, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 200);
    embed(&corpus, &by, DIM, &all[..200 * DIM]);
    for _ in 0..3 {
        append(&corpus.reopen().unwrap(), &by, 200..220, &all);
        holds(&corpus.reopen().unwrap(), &model(0..220, &all), "appended");
        delete(&corpus.reopen().unwrap(), 200..220);
        holds(&corpus.reopen().unwrap(), &model(0..200, &all), "deleted");
    }
    assert_eq!(corpus.reopen().unwrap().len(), 200, "the fragment went as a whole");
}

#[test]
fn a_writer_at_rest_is_not_gone_on_with_over_other_passages_or_in_another_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by, other) = (vectors(210, DIM, 1), encoder("a"), encoder("b"));
    let early = create(dir.path(), 200);
    embed(&early, &by, DIM, &all[..200 * DIM]);
    append(&early, &by, 200..210, &all);
    let now = early.reopen().unwrap();
    let lock = now.lock("a test").unwrap();
    let staging = now.begin(&lock, &other, DIM).unwrap().rest();
    assert!(matches!(early.go_on(&lock, staging), Err(Error::Changed { .. })));

    let staging = now.begin(&lock, &other, DIM).unwrap().rest();
    let elsewhere = tempfile::tempdir().unwrap();
    copy(dir.path(), elsewhere.path());
    let there = Corpus::open(elsewhere.path()).unwrap();
    let lock = there.lock("a test").unwrap();
    let mut writer = there.go_on(&lock, staging).unwrap();
    let fragments = writer.pending();
    writer.write(&fragments[0], rows(&fragments[0], DIM, &all)).unwrap();
    drop(writer);
    assert_eq!(there.begin(&lock, &other, DIM).unwrap().pending(), fragments[1..]);
}
