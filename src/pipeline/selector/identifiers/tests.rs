use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

fn text(folder: &str) -> Option<Text> {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    if !dir.is_dir() {
        eprintln!("skipped: `{}` is absent", dir.display());
        return None;
    }
    Some(Text::load(&dir).unwrap())
}

/// Every list of K of n passages that the cursor lets through, with the tokens that write it.
fn all_lists(identifiers: &Identifiers, passages: usize, choose: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut open = vec![(Cursor::new(identifiers, passages, choose).unwrap(), Vec::new())];
    let mut complete = Vec::new();
    while let Some((cursor, ids)) = open.pop() {
        match cursor.allowed() {
            None => complete.push((cursor.list().to_vec(), ids)),
            Some(allowed) => {
                assert!(!allowed.is_empty());
                for token in allowed {
                    let mut next = cursor.clone();
                    next.push(token);
                    open.push((next, [ids.as_slice(), &[token]].concat()));
                }
            }
        }
    }
    complete
}

/// Byte-level BPE whose numbers are whole tokens, byte-level BPE with merges across pieces, sentencepiece with single digits
/// and a blank of its own, sentencepiece without brackets.
#[test]
fn exactly_the_ordered_choices_can_be_written_by_any_tokenizer() {
    for folder in [
        "fixtures/models/qa-llama",
        "fixtures/golden/dro",
        "../shared/models/stories260k-hf",
        "../shared/models/tinystories-656k",
    ] {
        let Some(text) = text(folder) else { continue };
        for prefix in ["", " "] {
            let identifiers = Identifiers::new(&text, prefix, 20).unwrap();
            for (passages, choose, expected) in [(4, 2, 12), (12, 2, 132), (20, 1, 20), (3, 3, 6), (2, 5, 2), (1, 1, 1)]
            {
                let lists = all_lists(&identifiers, passages, choose);
                let different: BTreeSet<&Vec<u32>> = lists.iter().map(|(list, _)| list).collect();
                assert_eq!((lists.len(), different.len()), (expected, expected), "{folder} {passages} {choose}");
                for (list, ids) in &lists {
                    assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), choose.min(passages));
                    let whole = identifiers.of_list(list).unwrap();
                    assert!(whole.len() <= identifiers.longest_list(choose));
                    // The last of all passages is certain: its tokens need not be written.
                    assert!(whole.starts_with(ids), "{folder}: {list:?}");
                    let branch = identifiers.branch(passages, list).unwrap();
                    assert_eq!(branch.ids, whole);
                    let free = identifiers.free_branch(list, Some(2)).unwrap();
                    assert_eq!((free.ids.len(), free.scored.len()), (whole.len() + 1, whole.len() + 1));
                }
            }
        }
    }
}

/// A tokenizer that keeps all characters gives the text back.
#[test]
fn tokens_spell_the_list() {
    for folder in ["fixtures/models/qa-llama", "fixtures/golden/dro", "../shared/models/stories260k-hf"] {
        let Some(text) = text(folder) else { continue };
        let identifiers = Identifiers::new(&text, " ", 20).unwrap();
        let ids = identifiers.of_list(&[8, 19, 0, 11]).unwrap();
        assert_eq!(text.decode(&ids).unwrap().trim(), "[9] > [20] > [1] > [12]", "{folder}");
    }
    assert_eq!(list_text(&[8, 19]), "[9] > [20]");
}

#[test]
fn what_cannot_be_told_apart_is_refused() {
    let Some(text) = text("fixtures/golden/generator/tied") else { panic!("a fixture is missing") };
    let error = Identifiers::new(&text, " ", 3).unwrap_err();
    assert!(error.to_string().contains("`[1]` and `[2]` alike"), "{error}");
    assert!(error.find_hint().unwrap().contains("digits"));
}

#[test]
fn lists_that_are_no_choice_are_refused() {
    let Some(text) = text("fixtures/models/qa-llama") else { panic!("a fixture is missing") };
    let identifiers = Identifiers::new(&text, " ", 5).unwrap();
    for list in [&[0u32, 0][..], &[5]] {
        assert!(identifiers.of_list(list).unwrap_err().to_string().contains("no choice"), "{list:?}");
    }
    assert!(identifiers.branch(3, &[4, 0]).unwrap_err().to_string().contains("beyond the 3"));
    for (passages, choose) in [(0, 1), (6, 1), (3, 0)] {
        assert!(Cursor::new(&identifiers, passages, choose).is_err());
    }
}
