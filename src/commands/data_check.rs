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
        if let Err(error) = data::validate_gold(&questions::read(file)?, |id| ids.contains(id)) {
            found.problems.push(error.to_string());
        }
    }
    if json {
        print_json(&found)?;
    } else {
        print_text(&found.to_string())?;
    }
    Ok(u8::from(!found.is_usable()))
}
