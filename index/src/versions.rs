//! The history that is retained, state by state.

use crate::corpus::Corpus;
use crate::error::Result;
use crate::survey::{self, Known};

/// One retained state of the index: what a version of the dataset holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct VersionInfo {
    /// The first version of the dataset that holds it.
    pub dataset_version: u64,
    /// The generation it is a state of.
    pub generation: u32,
    /// Id of the fingerprint of what embedded it.
    pub encoder: String,
    /// What its commit did: `refresh`, `append`, `delete`, `compact`, `rollback`; nothing where the commit does not say.
    pub made_by: Option<String>,
    /// When, by the clock of the machine that did it: RFC 3339.
    pub made_at: String,
    /// Passages that are not deleted.
    pub passages: usize,
    /// Deleted passages whose rows are still there.
    pub deleted: usize,
    /// Fragments.
    pub fragments: usize,
    /// Whether it is what is searched.
    pub current: bool,
    /// Who keeps it from being removed.
    pub protected_by: Vec<String>,
}

impl Corpus {
    /// All retained states, the oldest first; the last is the current one. Empty before the first generation.
    pub fn versions(&self) -> Result<Vec<VersionInfo>> {
        let tags = self.table().tags()?;
        let known = self.survey()?;
        let last = known.len().saturating_sub(1);
        let mut infos = Vec::with_capacity(known.len());
        for (at, known) in known.iter().enumerate() {
            match info(known, &tags, at == last) {
                Ok(info) => infos.push(info),
                // Retired by a writer since it was listed.
                Err(_) if !known.table.lists(known.table.version())? => {}
                Err(error) => return Err(error),
            }
        }
        Ok(infos)
    }
}

fn info(known: &Known, tags: &[(String, u64)], current: bool) -> Result<VersionInfo> {
    let version = known.table.version();
    // Not which: a damaged list of those of an earlier state is no reason to hide the others.
    let deleted = known.table.deleted_rows()?;
    let (made_by, made_at) = known.table.provenance()?;
    let owners = tags.iter().filter(|(_, tagged)| *tagged == version);
    Ok(VersionInfo {
        dataset_version: version,
        generation: known.number,
        encoder: known.fingerprint.id(),
        made_by,
        made_at,
        passages: known.rows.len().saturating_sub(deleted),
        deleted,
        fragments: known.rows.fragments.len(),
        current,
        protected_by: owners.filter_map(|(tag, _)| survey::owner_of(tag)).map(|(owner, _)| owner).collect(),
    })
}
