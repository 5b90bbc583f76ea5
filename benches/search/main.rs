//! Questions a second and recall of the graph's search, by vectors and by codes of them, of hnsw_rs's own and of exact search
//! over the same vectors, on one thread, as lines of JSON: what `benches/search.sh` runs beside other programs.
//!
//! ```text
//! cargo bench --profile release --bench search -- --vectors FOLDER --dim 384
//! ```
//!
//! FOLDER holds `passages.f32` and `questions.f32`: little-endian float32, a row a text, of length one. With `--passages N` the
//! passages are repeated with noise until there are N (`--noise`, the length of what is added before renormalising).

mod arguments;
mod engines;
mod growth;
mod numbers;
mod opening;

use std::process::ExitCode;

use arguments::Arguments;
use engines::Engine;
use numbers::{Data, Measured, cpu_seconds, json_list};
use ragtune_nearest::{GraphParams, Hit, search};

/// Neighbours asked for.
const K: usize = 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), String> {
    let arguments = Arguments::parse()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).use_current_thread();
    pool.build_global().map_err(|error| error.to_string())?;
    let data = Data::read(&arguments)?;
    let params =
        GraphParams { links: arguments.links, ef_construction: arguments.ef_construction, ..GraphParams::default() };
    if arguments.opening {
        return opening::measure(&data, &arguments);
    }
    if arguments.growth {
        return growth::measure(&data, &params, &arguments);
    }
    let truth = search(&data.passages, data.dim, &data.questions, K);
    for name in &arguments.engines {
        let engine = Engine::build(name, &data, &params, &arguments)?;
        let efs = if engine.has_beam() { &arguments.efs[..] } else { &[0] };
        // All widths in turn, pass after pass: what else the machine does then hits them all alike.
        let mut measured: Vec<Measured> = efs.iter().map(|_| Measured::default()).collect();
        for pass in 0..=arguments.passes {
            for (ef, measured) in efs.iter().zip(&mut measured) {
                let (started, cpu) = (std::time::Instant::now(), cpu_seconds());
                let found = engine.search(&data, K, *ef);
                let took = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
                if pass == 0 {
                    measured.recall = recall(&truth, &found);
                } else {
                    measured.wall.push(took.0);
                    measured.cpu.push(took.1);
                }
            }
        }
        for (ef, measured) in efs.iter().zip(measured) {
            println!(
                "{{\"work\": \"search\", \"engine\": \"{}\", \"passages\": {}, \"dim\": {}, \"questions\": {}, \"threads\": {}, \
                 \"links\": {}, \"ef_construction\": {}, \"build_seconds\": {:.3}, \"bytes_per_passage\": {:.1}, \
                 \"vector_bytes_per_passage\": {:.1}, \"ef\": {ef}, \
                 \"recall_at_10\": {:.6}, \"seconds\": {}, \"cpu_seconds\": {}}}",
                engine.name(),
                data.len(),
                data.dim,
                data.asked(),
                arguments.threads,
                params.links,
                params.ef_construction,
                engine.build_seconds(),
                engine.bytes_per_passage(&data),
                engine.vector_bytes_per_passage(&data),
                measured.recall,
                json_list(&measured.wall),
                json_list(&measured.cpu),
            );
        }
    }
    Ok(())
}

/// Share of the exact hits that were found; one as near as the last of them counts.
fn recall(truth: &[Vec<Hit>], found: &[Vec<u32>]) -> f64 {
    let right = truth
        .iter()
        .zip(found)
        .map(|(truth, found)| found.iter().filter(|ordinal| truth.iter().any(|hit| hit.ordinal == **ordinal)).count());
    right.sum::<usize>() as f64 / truth.iter().map(Vec::len).sum::<usize>() as f64
}
