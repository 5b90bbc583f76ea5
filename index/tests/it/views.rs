//! Views: other vectors over a generation's graph; and searches among some passages.

use ragtune_index::*;

use crate::common::*;

const N: usize = 1500;
const DIM: usize = 24;

#[test]
fn a_view_finds_what_a_generation_with_those_vectors_and_edges_finds() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let first = embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 1));
    let mut other = vectors(N, DIM, 1);
    // Each passage is halfway to the next one.
    let turned = [&other[DIM..], &other[..DIM]].concat();
    for (row, next) in other.chunks_mut(DIM).zip(turned.chunks(DIM)) {
        row.iter_mut().zip(next).for_each(|(value, next)| *value += next);
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        row.iter_mut().for_each(|value| *value /= length);
    }
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &encoder("b"), DIM).unwrap();
    for fragment in writer.pending() {
        writer.write(&fragment, rows(&fragment, DIM, &other)).unwrap();
    }
    let stored = writer.commit(&params(), GraphPlan::Reuse { max_loss: 1.0 }, &mut |_| {}).unwrap();
    assert_eq!(stored.graph().unwrap().origin, "reuse:1");

    let view = first.with_vectors(stored.vectors().to_vec()).unwrap();
    assert!(view.is_view() && !first.is_view() && view.number() == 1 && view.graph_defect().is_none());
    let questions = vectors(30, DIM, 5);
    for how in [Search::Exact, Search::Graph { ef: 20 }] {
        let found = view.search(&questions, 10, how, Trust::StaleAllowed).unwrap();
        assert_eq!(found, stored.search(&questions, 10, how, Trust::StaleAllowed).unwrap());
        assert_ne!(found, first.search(&questions, 10, how, Trust::StaleAllowed).unwrap());
    }
    // The generation itself is what it was.
    assert!(same(first.vectors(), &vectors(N, DIM, 1)));

    let error = view.search(&questions, 10, Search::Exact, Trust::Same(&encoder("a"))).unwrap_err();
    assert!(matches!(error, Error::View { number: 1 }) && error.hint().is_some(), "{error}");
    assert!(view.record("x", &serde_json::json!(1)).is_err(), "a view is stored nowhere");
    assert_eq!(view.recorded("x").unwrap(), None);
    assert!(matches!(first.with_vectors(other[DIM..].to_vec()), Err(Error::Dimension { .. })));
    for value in [f32::NAN, 5.0] {
        let mut bad = stored.vectors().to_vec();
        bad[7 * DIM] = value;
        let error = first.with_vectors(bad).unwrap_err();
        assert!(matches!(&error, Error::BadVector { what } if what.contains("passage 7")), "{error}");
    }
}

#[test]
fn among_some_passages_only_those_are_found_and_the_nearest_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let generation = embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 1));
    let questions = vectors(20, DIM, 5);
    let all = generation.search(&questions, N, Search::Exact, Trust::StaleAllowed).unwrap();
    for every in [1, 2, 7, 400] {
        let allowed = Allowed::new(N, (0..N as u32).filter(|ordinal| ordinal % every == 3 % every)).unwrap();
        let (mut right, mut wanted) = (0, 0);
        let among = |how| generation.search_among(&questions, 10, how, Trust::StaleAllowed, &allowed).unwrap();
        for ((exact, found), all) in among(Search::Exact).iter().zip(among(Search::Graph { ef: 16 })).zip(&all) {
            let truth: Vec<Hit> = all.iter().filter(|hit| allowed.contains(hit.ordinal)).take(10).copied().collect();
            assert_eq!(*exact, truth, "every {every}");
            assert_eq!(found.len(), truth.len(), "every {every}");
            assert!(found.iter().all(|hit| allowed.contains(hit.ordinal)));
            right += found.iter().filter(|hit| truth.contains(hit)).count();
            wanted += truth.len();
        }
        assert!(right * 100 >= wanted * 85, "every {every}: {right} of {wanted}");
    }
    let other = Allowed::new(N + 1, [1]).unwrap();
    let error = generation.search_among(&questions, 1, Search::Exact, Trust::StaleAllowed, &other).unwrap_err();
    assert!(matches!(error, Error::OtherSet { given, expected: N } if given == N + 1), "{error}");
    let none = Allowed::new(N, []).unwrap();
    let found = generation.search_among(&questions, 3, Search::Graph { ef: 9 }, Trust::StaleAllowed, &none).unwrap();
    assert!(found.len() == 20 && found.iter().all(Vec::is_empty));
}
