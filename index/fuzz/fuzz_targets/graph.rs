//! The reader of `graph.bin`; see `checks::graph`.
#![no_main]

use checks::{begin, graph};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: begin(graph::check, graph::seeds),
    |data: &[u8]| {
        graph::check(data);
    }
);
