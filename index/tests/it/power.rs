//! Power cuts: at every boundary between two changes of an operation, the directory that a cut would leave is built and
//! opened. It must open, be wholly old or wholly new, say what was dropped, and let the operation be done again.
//!
//! The operation runs in a process of its own and is watched from outside, Lance's writes included; see `trace` for how and
//! `disk` for what a cut may take. Not covered: disks that acknowledge a sync without doing it, sectors that are lost or
//! swapped after a sync, and writes torn inside 512 bytes.

mod disk;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod trace;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod cuts {
    use std::collections::HashSet;
    use std::path::Path;

    use ragtune_index::*;

    use super::disk::{Luck, Tree, cut, restore};
    use super::trace::record;
    use crate::common::*;
    use crate::crash::{command, perform};

    /// Passages: two fragments.
    const N: usize = 100;

    /// What a cut takes at this boundary: everything that was not synced, and by turns one of the other kinds. On demand all
    /// of them and so many random tears: RAGTUNE_POWER_TEARS=5.
    fn lucks(boundary: usize, last: bool) -> Vec<Luck> {
        let tears = wanted("RAGTUNE_POWER_TEARS", 0);
        let torn = (0..tears.max(1)).map(|tear| Luck::Some(tear << 32 | boundary as u64));
        let rest: Vec<Luck> =
            [Luck::NamesOnly, Luck::Zeros, Luck::ContentsOnly, Luck::Everything].into_iter().chain(torn).collect();
        let rest = match tears > 0 || last {
            true => rest,
            false => vec![rest[boundary % rest.len()]],
        };
        std::iter::once(Luck::NothingUnsynced).chain(rest).collect()
    }

    #[derive(Default, Debug)]
    struct Counts {
        boundaries: usize,
        directories: usize,
        absent: usize,
        old: usize,
        new: usize,
        dropped: usize,
    }

    /// Runs `work` on the index that `prepare` makes and cuts the power everywhere.
    fn cut_everywhere(work: &str, prepare: impl FnOnce(&Path)) {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap().join("index");
        std::fs::create_dir(&root).unwrap();
        prepare(&root);
        let old = seen(&root);
        let recording = match record(&mut command(work, &root), &root) {
            Ok(recording) => recording,
            Err(error) => {
                eprintln!("skipped: processes cannot be watched here: {error}");
                return;
            }
        };
        let new = seen(&root).expect("the operation leaves an index");
        let (mut counts, mut met) = (Counts::default(), HashSet::new());
        for boundary in recording.before..=recording.ops.len() {
            counts.boundaries += 1;
            let last = boundary == recording.ops.len();
            for luck in lucks(boundary, last) {
                let tree = cut(&recording.ops[..boundary], &recording.is_dir, luck);
                if !met.insert(digest_of(&tree)) && !last {
                    continue;
                }
                counts.directories += 1;
                let place = scratch.path().join("cut");
                restore(&tree, &place);
                let context = format!(
                    "`{work}` cut after change {} of {}, {luck:?}",
                    boundary - recording.before,
                    recording.ops.len() - recording.before
                );
                // Mending reads and writes much: in every third directory.
                let mend = counts.directories.is_multiple_of(3) || wanted("RAGTUNE_POWER_TEARS", 0) > 0;
                let found = examine(&place, &old, &new, mend, &context, &mut counts);
                let done = found == Found::New || Some(&new) == old.as_ref();
                assert!(!last || done, "{context}: what was reported done is lost");
                if counts.directories.is_multiple_of(9) {
                    finish(work, &place, found, &new, &context);
                }
                std::fs::remove_dir_all(&place).unwrap();
            }
        }
        eprintln!("power cuts during `{work}`: {counts:?}");
        assert!(counts.boundaries > 10 && counts.old + counts.absent > 0, "{counts:?}");
        assert!(counts.new > 0 || Some(new) == old, "{counts:?}");
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Found {
        Absent,
        Old,
        New,
    }

    fn examine(dir: &Path, old: &Option<Seen>, new: &Seen, mend: bool, context: &str, counts: &mut Counts) -> Found {
        let torn = torn_head(dir);
        let corpus = match Corpus::open(dir) {
            Ok(corpus) => corpus,
            Err(error @ Error::NoIndex { .. }) if old.is_none() => {
                assert!(error.hint().is_some());
                counts.absent += 1;
                return Found::Absent;
            }
            Err(error) => panic!("{context}: it cannot be opened: {error:?}"),
        };
        assert_eq!(torn, !corpus.notices().is_empty(), "{context}: {:?}", corpus.notices());
        counts.dropped += usize::from(torn);
        let now = seen(dir).unwrap();
        let found = match () {
            // What only tidies is neither; that it can be done again is what counts.
            () if Some(new) == old.as_ref() && now == *new => Found::Old,
            () if now == *new => Found::New,
            () if Some(&now) == old.as_ref() => Found::Old,
            () => panic!("{context}: neither old nor new: {}", now.differs_from(new)),
        };
        match found {
            Found::New => counts.new += 1,
            _ => counts.old += 1,
        }
        if mend {
            only_leftovers(dir, context);
            assert_eq!(seen(dir), Some(now), "{context}: mending changed what is there");
        } else {
            let defects = check(dir).unwrap();
            assert!(defects.iter().all(|defect| defect.kind < DefectKind::Damage), "{context}: {defects:?}");
        }
        found
    }

    /// The same again, as the user would: it ends well, with the same content.
    fn finish(work: &str, dir: &Path, found: Found, new: &Seen, context: &str) {
        if found != Found::New {
            perform(work, dir);
            let now = seen(dir).unwrap();
            assert!(now == *new, "{context}, then again: {}", now.differs_from(new));
        }
        only_leftovers(dir, context);
    }

    fn torn_head(dir: &Path) -> bool {
        let mut all: Vec<_> = std::fs::read_dir(dir.join("corpus.lance/_versions"))
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().path())
            .collect();
        all.retain(|path| path.extension().is_some_and(|kind| kind == "manifest"));
        all.sort();
        all.first().is_some_and(|newest| !std::fs::read(newest).unwrap().ends_with(b"LANC"))
    }

    fn digest_of(tree: &Tree) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (path, content) in tree {
            hasher.update(path.to_str().unwrap().as_bytes()).update(&[0, u8::from(content.is_some())]);
            let content = content.as_deref().unwrap_or_default();
            hasher.update(&(content.len() as u64).to_le_bytes()).update(content);
        }
        hasher.finalize()
    }

    fn with_generations(dir: &Path, seeds: &[u64]) {
        let corpus = create(dir, N);
        for seed in seeds {
            embed(&corpus, &encoder(&seed.to_string()), 16, &vectors(N, 16, *seed));
        }
    }

    #[test]
    fn a_cut_during_creation_leaves_no_index_or_a_whole_one() {
        cut_everywhere(&format!("create {N}"), |_| {});
    }

    #[test]
    fn a_cut_during_the_first_generation_leaves_none_or_a_whole_one() {
        cut_everywhere("embed 1", |dir| with_generations(dir, &[]));
    }

    #[test]
    fn a_cut_during_a_refresh_leaves_the_old_generation_or_the_new_one() {
        // The third retires the first.
        cut_everywhere("embed 3", |dir| with_generations(dir, &[1, 2]));
    }

    /// Appended to, deleted from, refreshed and appended to again: states to collect, to compact and to go back to.
    fn with_a_past(dir: &Path) {
        with_generations(dir, &[1]);
        for work in ["more 30", "fewer 7", "embed 2", "more 20"] {
            perform(work, dir);
        }
    }

    #[test]
    fn a_cut_during_an_append_leaves_all_of_it_or_nothing() {
        cut_everywhere("more 30", |dir| with_generations(dir, &[1]));
    }

    #[test]
    fn a_cut_during_a_deletion_leaves_all_of_it_or_nothing() {
        cut_everywhere("fewer 7", |dir| with_generations(dir, &[1]));
    }

    #[test]
    fn a_cut_during_a_compaction_leaves_all_of_it_or_nothing() {
        cut_everywhere("compact all", with_a_past);
    }

    #[test]
    fn a_cut_during_a_rollback_leaves_all_of_it_or_nothing() {
        cut_everywhere("back 1", with_a_past);
    }

    #[test]
    fn a_cut_during_a_collection_changes_nothing_that_is_searched() {
        cut_everywhere("gc all", with_a_past);
    }

    #[test]
    fn a_cut_while_files_of_vectors_are_derived_changes_nothing_that_is_searched() {
        cut_everywhere("derive int8", |dir| with_generations(dir, &[1, 2]));
    }

    #[test]
    fn a_cut_during_a_protection_changes_nothing_that_is_searched() {
        cut_everywhere("protect 1", |dir| with_generations(dir, &[1, 2]));
    }
}
