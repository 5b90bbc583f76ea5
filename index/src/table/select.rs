//! Choosing passages by a condition in Lance's dialect of SQL.

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use futures::TryStreamExt;

use super::Table;
use crate::error::{Error, Result};
use crate::table::runtime::wait;

/// Lance's name for the column of row addresses.
const ADDRESS: &str = "_rowaddr";

impl Table {
    /// Ordinals of the passages that are not deleted and meet a condition over `id`, `title` and `text`, ascending.
    pub(crate) fn matching(&self, condition: &str) -> Result<Vec<u32>> {
        let refused =
            |source: lance::Error| Error::Condition { condition: condition.into(), source: message_of(&source).into() };
        // A condition that was understood: what goes wrong from then on is the disk's.
        let read = || Error::storage("looking for the passages that meet a condition");
        let fragments = self.fragments()?;
        let mut found = Vec::new();
        let mut add = |address: u64| {
            let fragment = fragments.iter().find(|fragment| fragment.id == address >> 32);
            found.extend(fragment.map(|fragment| fragment.first + address as u32));
        };
        wait(async {
            let mut scanner = self.dataset.scan();
            scanner.filter(condition).map_err(refused)?;
            scanner.project::<&str>(&[]).map_err(refused)?.with_row_address();
            let mut stream = scanner.try_into_stream().await.map_err(refused)?;
            while let Some(batch) = stream.try_next().await.map_err(read())? {
                let column = batch.column_by_name(ADDRESS).and_then(|column| column.as_primitive_opt::<UInt64Type>());
                let column = column.ok_or_else(|| self.foreign("a search by a condition gave no addresses"))?;
                column.values().iter().for_each(|address| add(*address));
            }
            Ok::<_, Error>(())
        })??;
        found.sort_unstable();
        Ok(found)
    }
}

/// What Lance says without the place in its source, which it adds at the end.
fn message_of(error: &lance::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(", ") {
        Some((message, place)) if place.contains(".rs:") => message.to_owned(),
        _ => text,
    }
}
