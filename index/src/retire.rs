//! What is kept of the past, and removing the rest.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::durable::{name, remove};
use crate::error::Result;
use crate::manifest::{point_at, sidecars};
use crate::protection;
use crate::sidecar;
use crate::survey::{self, Known};
use crate::table::Table;
use crate::vouch;

/// How much of the past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The newest state, the one before it, the newest of the generation before, and what is protected: what each commit
    /// leaves, so that readers who opened the index just before it still find their files.
    Usual,
    /// The same without earlier states of the newest generation: what is left after a collection.
    Least,
}

/// What goes and what stays.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The states that stay, in their order.
    pub(crate) kept: Vec<Known>,
    /// The versions of the dataset that stay besides the newest.
    versions: BTreeSet<u64>,
    /// Sidecars that go.
    pub(crate) sidecars: Vec<PathBuf>,
    /// Protections that are to follow their generation, with the version that each protects from then on.
    moves: Vec<(String, u64)>,
}

/// Decides what goes, without touching anything.
pub(crate) fn plan(dir: &Path, uuid: &str, table: &Table, keep: Keep) -> Result<Plan> {
    let known = survey::all(dir, uuid, table)?;
    let tags: Vec<_> = table.tags()?.into_iter().filter(|(tag, _)| survey::owner_of(tag).is_some()).collect();
    let moves = protection::moves(&tags, &known);
    let unmoved = tags.iter().filter(|(tag, _)| moves.iter().all(|(moved, _)| moved != tag));
    let protected: BTreeSet<u64> = unmoved.chain(&moves).map(|(_, version)| *version).collect();
    let stays = staying(&known.iter().map(|known| known.number).collect::<Vec<_>>(), keep);
    let kept: Vec<Known> = known
        .into_iter()
        .enumerate()
        .filter(|(at, known)| stays.contains(at) || protected.contains(&known.table.version()))
        .map(|(_, known)| known)
        .collect();
    let names: BTreeSet<String> = kept.iter().map(Known::sidecar_name).collect();
    let sidecars = sidecars(dir)?.into_iter().filter(|sidecar| !names.contains(name(sidecar))).collect();
    let versions = kept.iter().map(|known| known.table.version()).collect();
    Ok(Plan { kept, versions, sidecars, moves })
}

/// Which states stay whoever protects them: `numbers` are those of all states in their order.
fn staying(numbers: &[u32], keep: Keep) -> BTreeSet<usize> {
    let Some(last) = numbers.len().checked_sub(1) else { return BTreeSet::new() };
    let mut stays = BTreeSet::from([last]);
    if keep == Keep::Usual {
        stays.extend(last.checked_sub(1));
    }
    stays.extend(numbers.iter().rposition(|number| *number != numbers[last]));
    stays
}

impl Plan {
    /// Versions of the dataset that go, ascending.
    pub(crate) fn versions_that_go(&self, table: &Table) -> Result<Vec<u64>> {
        let unmoved = table.tags()?.into_iter().filter(|(tag, _)| self.moves.iter().all(|(moved, _)| moved != tag));
        let tagged: BTreeSet<u64> = unmoved.map(|(_, version)| version).collect();
        let stays =
            |version: &u64| self.versions.contains(version) || tagged.contains(version) || *version == table.version();
        Ok(table.versions()?.into_iter().filter(|version| !stays(version)).collect())
    }

    /// Does it: CURRENT and protections first, then the manifests of the versions that go, then their sidecars, then files that
    /// no version refers to, but for `spare`. So nothing is missing of a version that is listed, and a reader that finds a
    /// file gone finds its version gone too. The caller holds the writer's lock, and `table` is at the newest version.
    pub(crate) fn carry_out(&self, dir: &Path, table: &Table, spare: &BTreeSet<String>) -> Result<()> {
        if let Some(newest) = self.kept.last() {
            point_at(dir, &newest.sidecar_name())?;
        }
        for (tag, version) in &self.moves {
            table.move_tag(tag, *version)?;
        }
        table.forget(&self.versions)?;
        for sidecar in &self.sidecars {
            remove(sidecar)?;
        }
        table.sweep(spare)
    }
}

/// Points CURRENT at the newest generation, then removes every state but the usual ones with what belongs to it alone. The
/// caller holds the writer's lock and nothing is staged except `spare`.
pub(crate) fn retire(dir: &Path, uuid: &str, table: &Table, spare: &BTreeSet<String>) -> Result<()> {
    plan(dir, uuid, table, Keep::Usual)?.carry_out(dir, table, spare)
}

/// The newest state, once all that retiring looks at can be read: a commit whose end is foreseen to fail is better not begun.
/// What a crash left of sidecars is put in its place before: the state that comes now may have other files, and would
/// not find the notes. The caller holds the writer's lock.
pub(crate) fn before_change(dir: &Path, uuid: &str, table: &Table) -> Result<Option<Known>> {
    // Whoever has the index open since before its newest state was lost would go on with an older one.
    vouch::verify_newest(dir)?;
    for known in survey::all(dir, uuid, table)? {
        sidecar::salvage(dir, uuid, &known)?;
    }
    plan(dir, uuid, table, Keep::Usual)?;
    survey::newest(dir, uuid, table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_the_one_before_and_the_generation_before_stay() {
        let cases: [(&[u32], &[usize], &[usize]); 6] = [
            (&[], &[], &[]),
            (&[1], &[0], &[0]),
            (&[1, 2, 3], &[1, 2], &[1, 2]),
            (&[1, 2, 2, 2], &[0, 2, 3], &[0, 3]),
            (&[2, 2, 3], &[1, 2], &[1, 2]),
            (&[1, 2, 2, 3, 3], &[2, 3, 4], &[2, 4]),
        ];
        for (numbers, usual, least) in cases {
            assert_eq!(staying(numbers, Keep::Usual), usual.iter().copied().collect(), "{numbers:?}");
            assert_eq!(staying(numbers, Keep::Least), least.iter().copied().collect(), "{numbers:?}");
        }
    }
}
