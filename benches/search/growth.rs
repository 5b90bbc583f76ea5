//! Growth: one size at a time, what it takes to build, keep, open and search. One process a size, so that memory is this
//! size's.

use std::fs;
use std::time::Instant;

use ragtune_nearest::{Codes, Coding, GraphParams, build, decode, encode, search};

use crate::K;
use crate::arguments::Arguments;
use crate::numbers::{Data, json_list, resident_bytes};
use crate::recall;

/// Measures the size that `data` has.
pub fn measure(data: &Data, params: &GraphParams, arguments: &Arguments) -> Result<(), String> {
    let with_vectors = resident_bytes();
    let started = Instant::now();
    let built = build(&data.passages, data.dim, params).map_err(|refused| format!("{refused:?}"))?;
    let build_seconds = started.elapsed().as_secs_f64();
    let bytes = encode(&built.graph);
    drop(built);
    let file = arguments.graph.clone().unwrap_or_else(|| arguments.vectors.join("growth.graph"));
    fs::write(&file, &bytes).map_err(|error| error.to_string())?;
    drop(bytes);
    let started = Instant::now();
    let bytes = fs::read(&file).map_err(|error| error.to_string())?;
    let graph = decode(&bytes, data.len())?;
    let open_seconds = started.elapsed().as_secs_f64();
    let file_bytes = bytes.len();
    drop(bytes);
    let with_graph = resident_bytes();
    let started = Instant::now();
    let truth = search(&data.passages, data.dim, &data.questions, K);
    let exact_seconds = started.elapsed().as_secs_f64();
    let kept = [None, Some(Coding::F16), Some(Coding::Int8)]
        .map(|coding| coding.map(|coding| (coding, coding.encode(&data.passages, data.dim))));
    for (kept, ef) in kept.iter().flat_map(|kept| arguments.efs.iter().map(move |ef| (kept, ef))) {
        let codes =
            kept.as_ref().map(|(coding, bytes)| Codes::view(*coding, bytes, data.len(), data.dim)).transpose()?;
        let (engine, vector_bytes) = match kept {
            None => ("ragtune", data.passages.len() * 4),
            Some((Coding::F16, bytes)) => ("ragtune f16", bytes.len()),
            Some((Coding::Int8, bytes)) => ("ragtune int8", bytes.len()),
        };
        let ask = || -> Vec<Vec<u32>> {
            let found = data.questions.chunks_exact(data.dim).map(|question| {
                let hits = match &codes {
                    None => graph.search(&data.passages, data.dim, question, K, *ef),
                    Some(codes) => graph.search_codes_where(codes, &data.passages, question, K, *ef, |_| true).0,
                };
                hits.into_iter().map(|hit| hit.ordinal).collect()
            });
            found.collect()
        };
        let recall = recall(&truth, &ask());
        let times = (0..arguments.passes).map(|_| {
            let started = Instant::now();
            std::hint::black_box(ask());
            started.elapsed().as_secs_f64()
        });
        let times: Vec<f64> = times.collect();
        println!(
            "{{\"work\": \"growth\", \"engine\": \"{engine}\", \"passages\": {}, \"dim\": {}, \"questions\": {}, \"noise\": {}, \
             \"build_seconds\": {build_seconds:.3}, \"open_seconds\": {open_seconds:.4}, \"file_bytes\": {file_bytes}, \
             \"graph_bytes\": {}, \"vector_bytes\": {vector_bytes}, \"resident_with_vectors\": {with_vectors}, \
             \"resident_with_graph\": {with_graph}, \"exact_seconds\": {exact_seconds:.4}, \"ef\": {ef}, \
             \"recall_at_10\": {recall:.6}, \"seconds\": {}}}",
            data.len(),
            data.dim,
            data.asked(),
            arguments.noise,
            graph.bytes(),
            json_list(&times),
        );
    }
    Ok(())
}
