//! The reader of `lexical.bin`; see `checks::lexical`.
#![no_main]

use checks::{begin, lexical};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: begin(lexical::check, lexical::seeds),
    |data: &[u8]| {
        lexical::check(data);
    }
);
