//! Searches among some passages.

use ragtune_index::*;

use crate::changing::{DIM, delete, nearest};
use crate::common::*;

#[test]
fn a_filter_chooses_by_id_and_by_condition() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(300, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 300);
    embed(&corpus, &by, DIM, &all);
    delete(&corpus, [1, 2]);
    let corpus = corpus.reopen().unwrap();
    // Titles are shared by three passages each.
    let allowed = corpus.matching("title IN ('Title 0', 'Title 33') OR id = 'p200'").unwrap();
    assert_eq!(allowed.ordinals().collect::<Vec<_>>(), [0, 99, 100, 101, 200]);
    assert_eq!(corpus.matching("text LIKE '%nobody%'").unwrap().count(), 0);
    assert_eq!(corpus.matching("true").unwrap().count(), 298);
    let generation = corpus.current().unwrap().unwrap();
    let question = vectors(1, DIM, 9);
    let hits = generation.search_among(&question, 3, Search::Exact, Trust::Same(&by), &allowed).unwrap();
    let present = [0, 99, 100, 101, 200].into_iter().map(|at| (at, all[at * DIM..(at + 1) * DIM].to_vec())).collect();
    let ids: Vec<&str> = hits[0].iter().map(|hit| corpus.ids().unwrap()[hit.ordinal as usize].as_str()).collect();
    assert_eq!(ids, nearest(&present, &question, 3));
    let ids = ["p7", "p0"].map(str::to_string);
    assert_eq!(corpus.among(&ids).unwrap().ordinals().collect::<Vec<_>>(), [0, 7]);
    assert!(matches!(corpus.among(&["p1".to_string()]), Err(Error::UnknownIds { .. })));
    for wrong in ["", "colour = 'red'", "title LIKE", "id = 7 AND ("] {
        let error = corpus.matching(wrong).unwrap_err();
        assert!(matches!(&error, Error::Condition { .. }) && error.hint().is_some(), "{wrong}: {error:?}");
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap();
        assert!(!cause.is_empty() && !cause.contains(".rs:"), "{wrong}: {cause}");
    }
}
