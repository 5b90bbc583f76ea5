//! Generations: searched, superseded, protected, retired.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ragtune_index::*;

use crate::common::*;

const DIM: usize = 24;

#[test]
fn a_generation_is_searched_exactly_and_through_its_graph() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 2000);
    let (by, given) = (encoder("a"), vectors(2000, DIM, 1));
    let mut stages = Vec::new();
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &by, DIM).unwrap();
    assert_eq!(writer.number(), 1);
    for fragment in writer.pending() {
        writer.write(&fragment, rows(&fragment, DIM, &given)).unwrap();
    }
    let made = writer.commit(&GraphParams::default(), GraphPlan::Build, &mut |stage| stages.push(stage)).unwrap();
    assert_eq!(stages, [CommitStage::Commit, CommitStage::Graph, CommitStage::Probe, CommitStage::Publish]);
    let found = corpus.current().unwrap().unwrap();
    for generation in [&made, &found] {
        assert_eq!((generation.number(), generation.len(), generation.dim()), (1, 2000, DIM));
        assert_eq!(generation.fingerprint(), &by);
        assert_eq!(generation.graph_defect(), None);
        assert!(same(generation.vectors(), &given));
        let graph = generation.graph().unwrap();
        assert!(graph.recall_at_10 >= 0.95, "{graph:?}");
        assert_eq!((graph.probes, graph.links, graph.origin.as_str()), (200, 16, "build"));
    }
    assert_eq!(made.dataset_version(), found.dataset_version());
    let questions = vectors(50, DIM, 1);
    let exact = found.search(&questions, 10, Search::Exact, Trust::Same(&by)).unwrap();
    let graph = found.search(&questions, 10, Search::Graph { ef: 64 }, Trust::Same(&by)).unwrap();
    let right: usize = exact.iter().zip(&graph).map(|(e, g)| g.iter().filter(|hit| e.contains(hit)).count()).sum();
    assert!(right as f64 / 500.0 >= 0.95, "recall@10 {right} of 500");
    for (question, hits) in questions.chunks(DIM).zip(&exact) {
        let naive = |ordinal: usize| question.iter().zip(&given[ordinal * DIM..]).map(|(a, b)| a * b).sum::<f32>();
        let best = (0..2000).map(naive).fold(f32::MIN, f32::max);
        assert!((hits[0].score - best).abs() < 1e-5);
        assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
        let vector = found.vector(hits[0].ordinal).unwrap();
        assert!((vector.iter().zip(question).map(|(a, b)| a * b).sum::<f32>() - hits[0].score).abs() < 1e-5);
    }
    assert!(check(dir.path()).unwrap().is_empty());
    let stats = corpus.stats().unwrap();
    assert_eq!((stats.passages, stats.dim, stats.generations), (2000, Some(DIM), 1));
    assert!(stats.vector_bytes >= (2000 * DIM * 4) as u64 && stats.text_bytes > 50_000, "{stats:?}");
    assert_eq!(stats.graph_bytes, found.graph().unwrap().bytes);
}

#[test]
fn questions_that_cannot_be_answered_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 5);
    let by = encoder("a");
    let generation = embed(&corpus, &by, DIM, &vectors(5, DIM, 1));
    let question = vectors(1, DIM, 2);
    let ask = |questions: &[f32], k, trust: Trust<'_>| generation.search(questions, k, Search::Graph { ef: 9 }, trust);
    assert_eq!(ask(&question, 5, Trust::Same(&by)).unwrap()[0].len(), 5);
    assert!(ask(&question, 0, Trust::Same(&by)).unwrap()[0].is_empty());
    assert!(ask(&[], 5, Trust::Same(&by)).unwrap().is_empty());

    let error = ask(&question, 6, Trust::Same(&by)).unwrap_err();
    assert!(error.to_string().contains('6') && error.to_string().contains('5'), "{error}");
    assert!(error.hint().unwrap().contains("--top-k 5"));

    let other = encoder("b");
    let error = ask(&question, 5, Trust::Same(&other)).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&other.id()) && message.contains(&by.id()), "{message}");
    assert!(message.contains("weights: `b` against `a`"), "{message}");
    assert!(error.hint().unwrap().contains("ragtune index build"));
    assert_eq!(ask(&question, 5, Trust::StaleAllowed).unwrap()[0].len(), 5);

    assert!(matches!(ask(&question[1..], 1, Trust::StaleAllowed), Err(Error::Dimension { .. })));
    let mut nan = question.clone();
    nan[3] = f32::NAN;
    assert!(matches!(ask(&nan, 1, Trust::StaleAllowed), Err(Error::BadVector { .. })));
    assert!(generation.vector(5).is_err());
}

#[test]
fn vectors_that_cannot_be_stored_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 100);
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &encoder("a"), DIM).unwrap();
    let good = vectors(100, DIM, 1);
    let fragment = writer.pending()[0];
    for (value, expected) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (3.0, "length")] {
        let mut bad = rows(&fragment, DIM, &good).to_vec();
        bad[5 * DIM] = value;
        let error = writer.write(&fragment, &bad).unwrap_err();
        assert!(error.to_string().contains("passage 5") && error.to_string().contains(expected), "{error}");
        assert!(error.hint().is_some());
    }
    assert!(matches!(writer.write(&fragment, &good[..DIM]), Err(Error::Dimension { .. })));
    writer.write(&fragment, rows(&fragment, DIM, &good)).unwrap();
    assert!(writer.write(&fragment, rows(&fragment, DIM, &good)).is_err(), "a fragment is written once");
    let error = writer.commit(&params(), GraphPlan::Build, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Incomplete { pending: 1, fragments: 2, .. }), "{error}");
    assert!(corpus.current().unwrap().is_none());
}

#[test]
fn all_generations_have_one_dimension_once_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 10);
    let lock = corpus.lock("a test").unwrap();
    drop(corpus.begin(&lock, &encoder("a"), 7).unwrap());
    drop(corpus.begin(&lock, &encoder("b"), DIM).unwrap());
    drop(lock);
    embed(&corpus, &encoder("c"), DIM, &vectors(10, DIM, 1));
    let lock = corpus.lock("a test").unwrap();
    let error = corpus.begin(&lock, &encoder("d"), 7).unwrap_err();
    assert!(matches!(error, Error::Dimension { given: 7, expected: DIM, .. }), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn the_same_vectors_give_the_same_graph_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let given = vectors(400, DIM, 3);
    let graphs = ["1", "2"].map(|name| {
        let corpus = create(&dir.path().join(name), 400);
        embed(&corpus, &encoder("a"), DIM, &given);
        fs::read(sidecars(corpus.dir())[0].join("graph.bin")).unwrap()
    });
    assert!(graphs[0] == graphs[1]);
}

#[test]
fn a_refresh_replaces_vectors_and_never_touches_texts() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 200);
    let texts = files(dir.path(), "corpus.lance/data");
    let before: Vec<_> = texts.iter().map(|text| fs::read(text).unwrap()).collect();
    for refresh in 0..4 {
        let given = vectors(200, DIM, refresh);
        let made = embed(&corpus, &encoder(&refresh.to_string()), DIM, &given);
        assert_eq!(u64::from(made.number()), refresh + 1);
        assert!(same(corpus.current().unwrap().unwrap().vectors(), &given));
    }
    let now = files(dir.path(), "corpus.lance/data");
    assert!(texts.is_subset(&now));
    assert!(before.iter().zip(&texts).all(|(before, path)| *before == fs::read(path).unwrap()));
    assert_eq!(now.len(), texts.len() + 2 * corpus.fragments().len(), "the newest and the one before are kept");
    let versions = files(dir.path(), "corpus.lance/_versions");
    assert_eq!(versions.iter().filter(|path| path.extension().is_some_and(|kind| kind == "manifest")).count(), 2);
    assert_eq!(corpus.get(&[7]).unwrap(), [passage(7)]);
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn protected_generations_stay_readable_and_go_when_nobody_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 150);
    let first = vectors(150, DIM, 1);
    let base = encoder("base");
    embed(&corpus, &base, DIM, &first);
    {
        let lock = corpus.lock("a test").unwrap();
        corpus.protect(&lock, 1, "runs/joint seed=1").unwrap();
        corpus.protect(&lock, 1, "runs/joint seed=1").unwrap();
        corpus.protect(&lock, 1, "other").unwrap();
        assert!(matches!(corpus.protect(&lock, 9, "x"), Err(Error::NoGeneration { number: 9, .. })));
    }
    for refresh in 2..6 {
        embed(&corpus, &encoder(&refresh.to_string()), DIM, &vectors(150, DIM, refresh));
    }
    let numbers = |corpus: &Corpus| corpus.generations().unwrap().iter().map(|g| g.number).collect::<Vec<_>>();
    assert_eq!(numbers(&corpus), [1, 4, 5]);
    let info = &corpus.generations().unwrap()[0];
    assert_eq!(info.protected_by, ["other", "runs/joint seed=1"]);
    assert!(!info.current && info.graph.is_some());
    assert_eq!(info.fingerprint, base);

    let old = corpus.generation_for(&base).unwrap().unwrap();
    assert_eq!(old.number(), 1);
    assert!(same(old.vectors(), &first));
    assert_eq!(old.graph_defect(), None);
    assert!(corpus.generation_for(&encoder("2")).unwrap().is_none());
    assert!(matches!(corpus.generation(2), Err(Error::NoGeneration { retained, .. }) if retained == [1, 4, 5]));

    {
        let lock = corpus.lock("a test").unwrap();
        corpus.unprotect(&lock, 1, "other").unwrap();
        corpus.unprotect(&lock, 1, "nobody").unwrap();
    }
    embed(&corpus, &encoder("6"), DIM, &vectors(150, DIM, 6));
    assert_eq!(numbers(&corpus), [1, 5, 6]);
    {
        let lock = corpus.lock("a test").unwrap();
        corpus.unprotect(&lock, 1, "runs/joint seed=1").unwrap();
    }
    embed(&corpus, &encoder("7"), DIM, &vectors(150, DIM, 7));
    assert_eq!(numbers(&corpus), [6, 7]);
    assert!(same(old.vectors(), &first), "what is loaded stays as it was");
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn the_protection_of_a_base_follows_its_generation_and_others_stay() {
    const DIM: usize = crate::changing::DIM;
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(300, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 200);
    embed(&corpus, &by, DIM, &all[..200 * DIM]);
    {
        let lock = corpus.lock("a test").unwrap();
        corpus.protect(&lock, 1, BASE).unwrap();
        corpus.protect(&lock, 1, "run").unwrap();
    }
    let tag = dir.path().join("corpus.lance/_refs/tags/keep-base-g1.json");
    let behind = fs::read(&tag).unwrap();
    let kept_by = |owner: &str| {
        let versions = Corpus::open(dir.path()).unwrap().versions().unwrap();
        versions
            .iter()
            .filter(|info| info.protected_by.iter().any(|by| by == owner))
            .map(|info| info.passages)
            .collect()
    };
    type Change<'c> = &'c dyn Fn(&Corpus);
    let changes: [(Change<'_>, usize); 3] = [
        (&|corpus| assert_eq!(crate::changing::append(corpus, &by, 200..220, &all).passages, 20), 220),
        (&|corpus| assert_eq!(crate::changing::delete(corpus, 0..5).passages, 5), 215),
        (&|corpus| assert_eq!(crate::past::compact(corpus).dropped, 5), 215),
    ];
    for (change, passages) in changes {
        change(&Corpus::open(dir.path()).unwrap());
        let (base, run): (Vec<usize>, Vec<usize>) = (kept_by(BASE), kept_by("run"));
        assert_eq!((base, run), (vec![passages], vec![200]));
        assert!(check(dir.path()).unwrap().is_empty());
    }
    // A crash between a commit and the step that moves it leaves it behind: whatever is retired next, it catches up before.
    fs::write(&tag, &behind).unwrap();
    let base: Vec<usize> = kept_by(BASE);
    assert_eq!(base, [200]);
    for seed in 2..5u64 {
        let corpus = Corpus::open(dir.path()).unwrap();
        embed(&corpus, &encoder(&seed.to_string()), DIM, &vectors(corpus.len(), DIM, seed));
    }
    let base: Vec<usize> = kept_by(BASE);
    assert_eq!(base, [215]);
    // Asking for it once more does the same.
    fs::write(&tag, &behind).unwrap();
    let corpus = Corpus::open(dir.path()).unwrap();
    corpus.protect(&corpus.lock("a test").unwrap(), 1, BASE).unwrap();
    let base: Vec<usize> = kept_by(BASE);
    assert_eq!(base, [215]);
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn a_reader_sees_each_commit_without_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let writer = create(dir.path(), 100);
    let reader = Corpus::open(dir.path()).unwrap();
    for refresh in 1..4 {
        embed(&writer, &encoder(&refresh.to_string()), DIM, &vectors(100, DIM, refresh));
        assert_eq!(u64::from(reader.current().unwrap().unwrap().number()), refresh);
        assert_eq!(reader.get(&[3]).unwrap(), [passage(3)]);
    }
}

#[test]
fn notes_stay_with_their_generation() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 100);
    let generation = embed(&corpus, &encoder("a"), DIM, &vectors(100, DIM, 1));
    assert_eq!(generation.recorded("build").unwrap(), None);
    let note = serde_json::json!({ "embed": 12.5 });
    generation.record("build", &note).unwrap();
    assert_eq!(corpus.current().unwrap().unwrap().recorded("build").unwrap(), Some(note));
    assert!(generation.record("../x", &serde_json::json!(1)).is_err());
}

#[test]
fn a_second_writer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 10);
    let _lock = corpus.lock("train runs/joint-1").unwrap();
    let error = Corpus::open(dir.path()).unwrap().lock("another").unwrap_err();
    assert!(error.to_string().contains("`train runs/joint-1`"), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert!(error.hint().is_some());
    let elsewhere = create(&dir.path().join("elsewhere"), 10);
    let wrong = elsewhere.lock("me").unwrap();
    assert!(matches!(corpus.begin(&wrong, &encoder("a"), DIM), Err(Error::WrongLock { .. })));
    assert!(corpus.current().unwrap().is_none(), "readers need no lock");
}

#[test]
fn it_works_inside_an_async_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let corpus = create(dir.path(), 10);
        assert_eq!(corpus.get(&[9]).unwrap(), [passage(9)]);
    });
}

fn files(dir: &Path, below: &str) -> BTreeSet<std::path::PathBuf> {
    fs::read_dir(dir.join(below)).unwrap().map(|entry| entry.unwrap().path()).collect()
}

pub fn sidecars(dir: &Path) -> Vec<std::path::PathBuf> {
    files(dir, "generations").into_iter().filter(|path| path.is_dir()).collect()
}
