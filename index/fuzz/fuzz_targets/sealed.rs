//! The readers of sealed JSON; see `checks::sealed_files`.
#![no_main]

use checks::{begin, sealed_files};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: begin(sealed_files::check, sealed_files::seeds),
    |data: &[u8]| {
        sealed_files::check(data);
    }
);
