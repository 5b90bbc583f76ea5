//! The reader of files of vectors and their codes; see `checks::vectors`.
#![no_main]

use checks::{begin, vectors};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: begin(vectors::check, vectors::seeds),
    |data: &[u8]| {
        vectors::check(data);
    }
);
