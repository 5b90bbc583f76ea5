//! Power cuts: at every boundary between two changes of an operation, the directory that a cut would leave is built and
//! opened. It must open, be wholly old or wholly new, say what was dropped, and let the operation be done again.
//!
//! The operation runs in a process of its own and is watched from outside, Lance's writes included; see `trace` for how and
//! `disk` for what a cut may take. Not covered: disks that acknowledge a sync without doing it, sectors that are lost or
//! swapped after a sync, and writes torn inside 512 bytes.
//!
//! Where ptrace is refused these tests say that they are skipped and pass; with RAGTUNE_NO_SKIP=1 they fail.

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
        cut_everywhere_in("", work, prepare);
    }

    /// The same with the index in a directory `below` one that is there, both of which are watched.
    fn cut_everywhere_in(below: &str, work: &str, prepare: impl FnOnce(&Path)) {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap().join("index");
        std::fs::create_dir(&root).unwrap();
        let index = root.join(below);
        prepare(&index);
        // Looked at in a copy: opening heals, and that is one of the things to be watched.
        let old = match index.is_dir() {
            true => {
                let looked_at = scratch.path().join("looked at");
                copy(&index, &looked_at);
                seen(&looked_at)
            }
            false => None,
        };
        let Some(recording) = record(&mut command(work, &index), &root).expect("what it does is seen to its end")
        else {
            skipped("processes cannot be watched here");
            return;
        };
        let new = seen(&index).expect("the operation leaves an index");
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
                let index = place.join(below);
                let found = examine(&index, &old, &new, mend, &context, &mut counts);
                let done = found == Found::New || Some(&new) == old.as_ref();
                assert!(!last || done, "{context}: what was reported done is lost");
                if counts.directories.is_multiple_of(9) {
                    finish(work, &index, found, &new, &context);
                }
                std::fs::remove_dir_all(&place).unwrap();
            }
        }
        eprintln!("power cuts during `{work}`: {counts:?}");
        // The least, opening an index with a torn manifest, makes seven changes.
        assert!(counts.boundaries > 5 && counts.old + counts.absent > 0, "{counts:?}");
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
        let mut now = seen(dir).unwrap();
        if context.starts_with("`protect") {
            // Written and taken back: between the two it is there.
            now.kept.clone_from(&new.kept);
        }
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
            let mut mended = seen(dir).unwrap();
            let noted = |state: &Seen| state.notes == mended.notes;
            let whole = noted(new) || old.as_ref().is_some_and(noted);
            assert!(whole, "{context}: notes are lost: {}", mended.differs_from(new));
            if context.starts_with("`protect") {
                mended.kept.clone_from(&new.kept);
            }
            // Where a graph was on its way into its place, the one of an earlier state answered meanwhile: it finds the same
            // passages by another walk.
            let as_done = Some(new) == old.as_ref() && mended == *new;
            assert!(
                mended == now || as_done,
                "{context}: mending changed what is there: {}",
                mended.differs_from(&now)
            );
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

    /// All manifests, the newest first.
    fn manifests(dir: &Path) -> Vec<std::path::PathBuf> {
        let mut all: Vec<_> = std::fs::read_dir(dir.join("corpus.lance/_versions"))
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().path())
            .collect();
        all.retain(|path| path.extension().is_some_and(|kind| kind == "manifest"));
        all.sort();
        all
    }

    fn torn_head(dir: &Path) -> bool {
        manifests(dir).first().is_some_and(|newest| !std::fs::read(newest).unwrap().ends_with(b"LANC"))
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
            let made = embed(&corpus, &encoder(&seed.to_string()), 16, &vectors(N, 16, *seed));
            if made.number() == 1 {
                made.record("build", &serde_json::json!({ "encoder": "a" })).unwrap();
                corpus.protect(&corpus.lock("a test").unwrap(), 1, BASE).unwrap();
            }
        }
    }

    #[test]
    fn a_cut_during_creation_leaves_no_index_or_a_whole_one() {
        cut_everywhere(&format!("create {N}"), |_| {});
    }

    #[test]
    fn a_cut_during_creation_in_directories_that_it_makes_leaves_no_index_or_a_whole_one() {
        cut_everywhere_in("made/by it", &format!("create {N}"), |_| {});
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
            if work == "embed 2" {
                let made = Corpus::open(dir).unwrap().current().unwrap().unwrap();
                made.record("build", &serde_json::json!({ "encoder": "b" })).unwrap();
            }
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
    fn a_cut_while_words_are_collected_changes_nothing_that_is_searched() {
        cut_everywhere("words now", |dir| with_generations(dir, &[1]));
    }

    /// An index with a damaged graph that has a note, a lost sidecar, a damaged protection and files of killed processes.
    fn to_be_mended(dir: &Path) {
        with_a_past(dir);
        let generations = dir.join("generations");
        let mut sidecars: Vec<_> =
            std::fs::read_dir(&generations).unwrap().map(|entry| entry.unwrap().path()).collect();
        sidecars.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("g-"));
        sidecars.sort();
        assert!(sidecars.len() > 2, "{sidecars:?}");
        let newest = std::fs::read_to_string(generations.join("CURRENT")).unwrap();
        std::fs::write(generations.join(newest.trim()).join("graph.bin"), "rt").unwrap();
        let other = sidecars.iter().find(|path| !path.ends_with(newest.trim())).unwrap();
        std::fs::remove_dir_all(other).unwrap();
        std::fs::write(
            dir.join("corpus.lance/_refs/tags/keep-base-g1.json"),
            r#"{"branch":null,"version":1,"manifestSize":7}"#,
        )
        .unwrap();
        std::fs::write(dir.join(".tmp-lexical.bin"), "half").unwrap();
        std::fs::create_dir(generations.join(".tmp-g-9-00000000")).unwrap();
    }

    #[test]
    fn a_cut_during_mending_changes_nothing_that_is_searched() {
        cut_everywhere("mend now", to_be_mended);
    }

    #[test]
    fn a_cut_while_opening_sets_a_torn_manifest_aside_changes_nothing() {
        cut_everywhere("open now", |dir| {
            with_generations(dir, &[1, 2]);
            let newest = manifests(dir).remove(0);
            let number: u64 = newest.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            std::fs::write(newest.with_file_name(format!("{:020}.manifest", number - 1)), "half a manifest").unwrap();
        });
    }

    #[test]
    fn a_protection_that_was_reported_outlives_a_cut() {
        // Nothing is written behind it: what is reported lasts.
        cut_everywhere("keep 1", |dir| with_generations(dir, &[1, 2]));
    }

    #[test]
    fn a_cut_during_a_protection_changes_nothing_that_is_searched() {
        cut_everywhere("protect 1", |dir| with_generations(dir, &[1, 2]));
    }
}
