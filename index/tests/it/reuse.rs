//! Refreshes that keep the graph's edges: when they do, when links are added, when it is built again, and what is written down.

use std::fs;
use std::path::Path;

use ragtune_index::*;

use crate::common::*;

const N: usize = 1500;
const DIM: usize = 24;

fn asked() -> GraphParams {
    GraphParams { links: 8, ef_construction: 60, probes: 150, ef: 20 }
}

/// As training moves vectors: a displacement that is a smooth function of the vector and the same for all, and a little noise.
fn drifted(vectors: &[f32], shared: f32, noise: f32, seed: u64) -> Vec<f32> {
    let own = self::vectors(N, DIM, seed);
    let mut moved = Vec::with_capacity(vectors.len());
    for (vector, own) in vectors.chunks(DIM).zip(own.chunks(DIM)) {
        let row: Vec<f32> = (0..DIM)
            .map(|at| {
                let bend = (3.0 * vector[(at + 1) % DIM] - 2.0 * vector[(at + 7) % DIM]).tanh();
                vector[at] + shared * bend + noise * own[at]
            })
            .collect();
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        moved.extend(row.iter().map(|value| value / length));
    }
    moved
}

fn refresh(
    corpus: &Corpus,
    by: &str,
    vectors: &[f32],
    params: &GraphParams,
    plan: GraphPlan,
) -> (Generation, Vec<CommitStage>) {
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &encoder(by), DIM).unwrap();
    for fragment in writer.pending() {
        writer.write(&fragment, rows(&fragment, DIM, vectors)).unwrap();
    }
    let mut stages = Vec::new();
    let made = writer.commit(params, plan, &mut |stage| stages.push(stage)).unwrap();
    (made, stages)
}

fn graph_bytes(dir: &Path, number: u32) -> Vec<u8> {
    let sidecars = fs::read_dir(dir.join("generations")).unwrap().map(|entry| entry.unwrap().path());
    let sidecar = sidecars
        .into_iter()
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&format!("g-{number}-")));
    fs::read(sidecar.unwrap().join("graph.bin")).unwrap()
}

fn reopened(corpus: &Corpus) -> GraphInfo {
    Corpus::open(corpus.dir()).unwrap().current().unwrap().unwrap().graph().unwrap().clone()
}

#[test]
fn edges_stay_while_the_probes_find_nothing_lost_and_their_origin_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let first = vectors(N, DIM, 1);
    let plan = GraphPlan::Reuse { max_loss: 0.03 };
    // There is nothing to reuse yet.
    let (built, stages) = refresh(&corpus, "a", &first, &asked(), plan);
    let built = built.graph().unwrap().clone();
    assert_eq!((built.origin.as_str(), built.built_recall_at_10), ("build", Some(built.recall_at_10)));
    assert_eq!(stages, [CommitStage::Commit, CommitStage::Graph, CommitStage::Probe, CommitStage::Publish]);
    let edges = graph_bytes(corpus.dir(), 1);
    let mut moved = first;
    // Generation 1 is retired on the way.
    for number in 2..=4u32 {
        moved = drifted(&moved, 0.03, 0.02, u64::from(number));
        let (made, stages) = refresh(&corpus, &format!("after {number}"), &moved, &asked(), plan);
        assert_eq!(stages, [CommitStage::Commit, CommitStage::Graph, CommitStage::Probe, CommitStage::Publish]);
        let info = made.graph().unwrap();
        assert_eq!((info.origin.as_str(), info.built_recall_at_10), ("reuse:1", Some(built.recall_at_10)));
        assert!(built.recall_at_10 - info.recall_at_10 <= 0.03, "{info:?} after {built:?}");
        assert_eq!(reopened(&corpus), *info);
        assert!(graph_bytes(corpus.dir(), number) == edges, "the same edges, byte for byte");
        let questions = drifted(&vectors(N, DIM, 77), 0.03, 0.0, 1);
        let questions = &questions[..40 * DIM];
        let exact = made.search(questions, 10, Search::Exact, Trust::StaleAllowed).unwrap();
        let found = made.search(questions, 10, Search::Graph { ef: 40 }, Trust::StaleAllowed).unwrap();
        let right: usize = exact.iter().zip(&found).map(|(e, f)| f.iter().filter(|hit| e.contains(hit)).count()).sum();
        assert!(right >= 380, "recall@10 {right} of 400; a score that differed would count as missed");
    }
    assert!(corpus.generation(1).is_err());
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn edges_of_vectors_that_are_all_others_now_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(&dir.path().join("reuse"), N);
    refresh(&corpus, "a", &vectors(N, DIM, 1), &asked(), GraphPlan::Build);
    let others = vectors(N, DIM, 2);
    let (made, stages) = refresh(&corpus, "b", &others, &asked(), GraphPlan::Reuse { max_loss: 0.03 });
    use CommitStage::{Commit, Graph, Probe, Publish};
    assert_eq!(stages, [Commit, Graph, Probe, Graph, Probe, Graph, Probe, Publish], "kept, repaired, built");
    assert_eq!(made.graph().unwrap().origin, "build");
    let fresh = create(&dir.path().join("fresh"), N);
    refresh(&fresh, "b", &others, &asked(), GraphPlan::Build);
    assert!(graph_bytes(corpus.dir(), 2) == graph_bytes(fresh.dir(), 1));
}

#[test]
fn a_repair_is_taken_when_it_gives_back_enough() {
    let dir = tempfile::tempdir().unwrap();
    let first = vectors(N, DIM, 1);
    let moved = drifted(&first, 0.3, 0.9, 9);
    let kept = create(&dir.path().join("kept"), N);
    let before = refresh(&kept, "a", &first, &asked(), GraphPlan::Build).0.graph().unwrap().recall_at_10;
    let kept = refresh(&kept, "b", &moved, &asked(), GraphPlan::Reuse { max_loss: 1.0 }).0.graph().unwrap().clone();
    assert_eq!(kept.origin, "reuse:1");
    let lost = before - kept.recall_at_10;
    assert!(lost > 0.03, "the move is meant to cost recall: {before} became {}", kept.recall_at_10);

    let corpus = create(&dir.path().join("mended"), N);
    refresh(&corpus, "a", &first, &asked(), GraphPlan::Build);
    let (mended, stages) = refresh(&corpus, "b", &moved, &asked(), GraphPlan::Reuse { max_loss: 0.8 * lost });
    use CommitStage::{Commit, Graph, Probe, Publish};
    assert_eq!(stages, [Commit, Graph, Probe, Graph, Probe, Publish]);
    let mended = mended.graph().unwrap().clone();
    assert_eq!((mended.origin.as_str(), mended.built_recall_at_10), ("repair:1", Some(before)));
    assert!(mended.recall_at_10 > kept.recall_at_10 && before - mended.recall_at_10 <= 0.8 * lost, "{mended:?}");
    assert!(mended.bytes > kept.bytes, "links were added");
    assert_eq!(reopened(&corpus), mended);
    // Who keeps the repaired edges has those of generation 2, and is still measured against the build.
    let (next, _) = refresh(&corpus, "c", &moved, &asked(), GraphPlan::Reuse { max_loss: 0.8 * lost });
    let next = next.graph().unwrap();
    assert_eq!((next.origin.as_str(), next.built_recall_at_10), ("reuse:2", Some(before)));
    assert_eq!(next.recall_at_10, mended.recall_at_10);
}

#[test]
fn small_losses_do_not_add_up_unseen() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let mut moved = vectors(N, DIM, 1);
    let built = refresh(&corpus, "a", &moved, &asked(), GraphPlan::Build).0.graph().unwrap().recall_at_10;
    let mut origins = Vec::new();
    for turn in 0..12u64 {
        moved = drifted(&moved, 0.1, 0.25, 20 + turn);
        let made = refresh(&corpus, &format!("{turn}"), &moved, &asked(), GraphPlan::Reuse { max_loss: 0.02 }).0;
        let info = made.graph().unwrap();
        if info.origin != "build" {
            assert!(info.built_recall_at_10.unwrap() - info.recall_at_10 <= 0.02, "{info:?}, first {built}");
        }
        origins.push(info.origin.clone());
    }
    assert!(origins[0].starts_with("re") && origins.iter().any(|origin| origin == "build"), "{origins:?}");
}

#[test]
fn only_a_whole_graph_by_the_same_parameters_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let (first, plan) = (vectors(N, DIM, 1), GraphPlan::Reuse { max_loss: 0.5 });
    refresh(&corpus, "a", &first, &asked(), GraphPlan::Build);
    let wider = GraphParams { links: 9, ..asked() };
    assert_eq!(refresh(&corpus, "b", &first, &wider, plan).0.graph().unwrap().origin, "build");
    // Generation 2 has other links; of generation 1, which is retained, the edges still fit.
    assert_eq!(refresh(&corpus, "c", &first, &asked(), plan).0.graph().unwrap().origin, "reuse:1");
    for number in [2, 3] {
        let bytes = graph_bytes(corpus.dir(), number);
        let entries = fs::read_dir(dir.path().join("generations")).unwrap().map(|entry| entry.unwrap().path());
        for sidecar in entries.filter(|path| path.is_dir()) {
            if fs::read(sidecar.join("graph.bin")).unwrap() == bytes {
                fs::write(sidecar.join("graph.bin"), &bytes[..bytes.len() / 2]).unwrap();
            }
        }
    }
    assert_eq!(refresh(&corpus, "d", &first, &asked(), plan).0.graph().unwrap().origin, "build");
    for max_loss in [f32::NAN, -0.1, 1.1] {
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &encoder("e"), DIM).unwrap();
        for fragment in writer.pending() {
            writer.write(&fragment, rows(&fragment, DIM, &first)).unwrap();
        }
        let error = writer.commit(&asked(), GraphPlan::Reuse { max_loss }, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Setting { .. }) && error.hint().is_some(), "{error}");
    }
}

#[test]
fn mending_leaves_the_origin_of_a_whole_graph_and_builds_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let first = vectors(N, DIM, 1);
    refresh(&corpus, "a", &first, &asked(), GraphPlan::Build);
    let moved = drifted(&first, 0.03, 0.02, 5);
    let made = refresh(&corpus, "b", &moved, &asked(), GraphPlan::Reuse { max_loss: 0.05 }).0;
    let mend = || {
        let lock = corpus.lock("mending").unwrap();
        corpus.mend(&lock, &asked(), &mut |_| {}).unwrap()
    };
    assert_eq!(mend(), [""; 0]);
    assert_eq!(reopened(&corpus), *made.graph().unwrap());
    assert_eq!(reopened(&corpus).origin, "reuse:1");
    let sidecars = fs::read_dir(dir.path().join("generations")).unwrap().map(|entry| entry.unwrap().path());
    let sidecar = sidecars.into_iter().find(|path| path.to_str().unwrap().contains("/g-2-")).unwrap();
    fs::write(sidecar.join("graph.bin"), b"rtgraph\n").unwrap();
    assert_eq!(mend().len(), 1);
    assert_eq!(reopened(&corpus).origin, "build");
}

#[test]
fn edges_of_a_named_generation_are_used_whatever_came_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let first = vectors(N, DIM, 1);
    refresh(&corpus, "a", &first, &asked(), GraphPlan::Build);
    let edges = graph_bytes(corpus.dir(), 1);
    let moved = drifted(&first, 0.03, 0.02, 2);
    // Another graph, by a run that was killed just after it.
    refresh(&corpus, "b", &moved, &asked(), GraphPlan::Build);
    assert!(graph_bytes(corpus.dir(), 2) != edges);
    let named = |generation| GraphPlan::ReuseOf { generation, max_loss: 1.0 };
    let (made, _) = refresh(&corpus, "c", &moved, &asked(), named(1));
    assert_eq!(made.graph().unwrap().origin, "reuse:1");
    assert!(graph_bytes(corpus.dir(), 3) == edges);
    // One that is not there any more gives none.
    let (made, _) = refresh(&corpus, "d", &moved, &asked(), named(1));
    assert_eq!(made.graph().unwrap().origin, "build");
}
