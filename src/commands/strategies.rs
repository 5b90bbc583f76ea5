//! `ragtune strategies`: the recipes and where they come from.

use serde::Serialize;

use super::{print_json, print_text};
use crate::error::Result;
use crate::strategies::STRATEGIES;

#[derive(Serialize)]
struct Row {
    name: &'static str,
    about: &'static str,
    source: &'static str,
}

pub fn run(json: bool) -> Result<u8> {
    let rows: Vec<Row> = STRATEGIES.iter().map(|s| Row { name: s.name, about: s.about, source: s.source }).collect();
    if json {
        print_json(&rows)?;
        return Ok(0);
    }
    for row in rows {
        print_text(&format!("{:<10} {}\n           {}", row.name, row.about, row.source))?;
    }
    Ok(0)
}
