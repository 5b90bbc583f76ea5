//! Choosing the passages that a search may return: by id, or by a condition on their texts.

use ragtune_nearest::Allowed;

use crate::corpus::Corpus;
use crate::error::{Error, Result};

impl Corpus {
    /// The passages that meet a condition over `id`, `title` and `text` in the SQL of the storage library, for instance
    /// `title LIKE 'A%' AND text != ''`. Reads the columns named.
    pub fn matching(&self, condition: &str) -> Result<Allowed> {
        let found = self.table().matching(condition).map_err(|error| self.or_changed(error))?;
        Ok(Allowed::new(self.len(), found)?)
    }

    /// The passages with these ids, each of which must be there.
    pub fn among(&self, ids: &[String]) -> Result<Allowed> {
        let mut ordinals = Vec::with_capacity(ids.len());
        let mut unknown = Vec::new();
        for id in ids {
            match self.ordinal(id)? {
                Some(ordinal) => ordinals.push(ordinal),
                None => unknown.push(id.clone()),
            }
        }
        if !unknown.is_empty() {
            return Err(Error::UnknownIds { asked: ids.len(), unknown });
        }
        Ok(Allowed::new(self.len(), ordinals)?)
    }
}
