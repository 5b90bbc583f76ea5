//! The reader of `journal.jsonl`; see `checks::journals`.
#![no_main]

use checks::{begin, journals};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: begin(journals::check, journals::seeds),
    |data: &[u8]| {
        journals::check(data);
    }
);
