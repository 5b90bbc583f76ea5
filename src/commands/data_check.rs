//! `ragtune data check`: what was understood of a file; 0 when it is usable, 1 with a list of problems.

use std::collections::HashSet;
use std::path::Path;

use super::{print_json, print_text};
use crate::data::{self, corpus, questions};
use crate::error::Result;

pub fn run(file: &Path, corpus: Option<&Path>, json: bool) -> Result<u8> {
    let mut found = data::check(file).map_err(data::expected)?;
    if let Some(path) = corpus {
        let mut ids = HashSet::new();
        for passage in corpus::open(path).map_err(data::expected)? {
            ids.insert(passage.map_err(data::expected)?.id);
        }
        let set = questions::read(file)?;
        let named: usize = set.questions.iter().map(|question| question.gold_passages.len()).sum();
        match data::validate_gold(&set, |id| ids.contains(id)) {
            Err(error) => found.problems.push(error.to_string()),
            Ok(()) if named == 0 => found.notes.push("no question names a gold passage to look for".to_owned()),
            Ok(()) => found.notes.push(format!(
                "all {named} gold passages are among the {} of `{}`",
                ids.len(),
                path.display()
            )),
        }
    }
    if json {
        print_json(&found)?;
    } else {
        print_text(&found.to_string())?;
    }
    Ok(u8::from(!found.is_usable()))
}
