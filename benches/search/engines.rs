//! What is measured, behind one face.

use std::time::Instant;

use hnsw_rs::anndists::dist::distances::Distance;
use hnsw_rs::hnsw::Hnsw;
use ragtune_nearest::{Aligned, Codes, Coding, FlatGraph, GraphParams, build, decode, dot, encode, search};
use rayon::prelude::*;

use crate::arguments::Arguments;
use crate::numbers::Data;

/// One way to search.
pub enum Engine {
    /// ragtune's graph, walked by the vectors.
    Flat { graph: FlatGraph, build_seconds: f64 },
    /// The same walked by codes of them, what is found scored again by the vectors.
    Coded { graph: FlatGraph, build_seconds: f64, coding: Coding, codes: Aligned<u8> },
    /// The structure of hnsw_rs, with the same inner product, searched by itself.
    HnswRs { index: Box<Hnsw<'static, f32, InnerProduct>>, build_seconds: f64 },
    /// Every passage scored.
    Exact,
}

/// As in `ragtune-nearest`: `1 - a·b`, never negative.
#[derive(Clone, Copy)]
pub struct InnerProduct;

impl Distance<f32> for InnerProduct {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        (1.0 - dot(a, b)).max(0.0)
    }
}

impl Engine {
    /// Builds it over the passages.
    pub fn build(name: &str, data: &Data, params: &GraphParams, arguments: &Arguments) -> Result<Self, String> {
        let started = Instant::now();
        match name {
            "ragtune" => {
                if let Some(bytes) = arguments.graph.as_ref().and_then(|path| std::fs::read(path).ok()) {
                    return Ok(Engine::Flat { graph: decode(&bytes, data.len())?, build_seconds: 0.0 });
                }
                let built = build(&data.passages, data.dim, params).map_err(|refused| format!("{refused:?}"))?;
                let build_seconds = started.elapsed().as_secs_f64();
                if let Some(path) = &arguments.graph {
                    std::fs::write(path, encode(&built.graph)).map_err(|error| error.to_string())?;
                }
                Ok(Engine::Flat { graph: built.graph, build_seconds })
            }
            "ragtune-f16" | "ragtune-int8" => {
                let coding = if name == "ragtune-f16" { Coding::F16 } else { Coding::Int8 };
                let Engine::Flat { graph, build_seconds } = Engine::build("ragtune", data, params, arguments)? else {
                    return Err("the graph was not built".into());
                };
                Ok(Engine::Coded { graph, build_seconds, coding, codes: coding.encode(&data.passages, data.dim) })
            }
            "hnsw_rs" => {
                let index = Hnsw::new(params.links, data.len(), 16, params.ef_construction, InnerProduct);
                for (ordinal, vector) in data.passages.chunks_exact(data.dim).enumerate() {
                    index.insert((vector, ordinal));
                }
                Ok(Engine::HnswRs { index: Box::new(index), build_seconds: started.elapsed().as_secs_f64() })
            }
            "exact" => Ok(Engine::Exact),
            _ => Err(format!("`{name}` is no engine, expected ragtune, ragtune-f16, ragtune-int8, hnsw_rs or exact")),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Engine::Flat { .. } => "ragtune",
            Engine::Coded { coding: Coding::F16, .. } => "ragtune f16",
            Engine::Coded { coding: Coding::Int8, .. } => "ragtune int8",
            Engine::HnswRs { .. } => "hnsw_rs",
            Engine::Exact => "ragtune exact",
        }
    }

    pub fn has_beam(&self) -> bool {
        !matches!(self, Engine::Exact)
    }

    pub fn build_seconds(&self) -> f64 {
        match self {
            Engine::Flat { build_seconds, .. }
            | Engine::Coded { build_seconds, .. }
            | Engine::HnswRs { build_seconds, .. } => *build_seconds,
            Engine::Exact => 0.0,
        }
    }

    /// Bytes beside the vector; 0 where the engine does not tell.
    pub fn bytes_per_passage(&self, data: &Data) -> f64 {
        match self {
            Engine::Flat { graph, .. } | Engine::Coded { graph, .. } => graph.bytes() as f64 / data.len() as f64,
            Engine::HnswRs { .. } | Engine::Exact => 0.0,
        }
    }

    /// Bytes of what stands for the vector of a passage during the walk.
    pub fn vector_bytes_per_passage(&self, data: &Data) -> f64 {
        match self {
            Engine::Coded { codes, .. } => codes.len() as f64 / data.len() as f64,
            Engine::Flat { .. } | Engine::HnswRs { .. } | Engine::Exact => data.dim as f64 * 4.0,
        }
    }

    /// The ordinals of the `k` nearest for every question.
    pub fn search(&self, data: &Data, k: usize, ef: usize) -> Vec<Vec<u32>> {
        let codes = match self {
            Engine::Coded { coding, codes, .. } => Codes::view(*coding, codes, data.len(), data.dim).ok(),
            _ => None,
        };
        let questions = data.questions.par_chunks_exact(data.dim);
        match self {
            Engine::Flat { graph, .. } => questions
                .map(|question| {
                    let hits = graph.search(&data.passages, data.dim, question, k, ef);
                    hits.into_iter().map(|hit| hit.ordinal).collect()
                })
                .collect(),
            Engine::Coded { graph, .. } => questions
                .map(|question| {
                    let codes = codes.as_ref().expect("they were laid out by the same rules");
                    let hits = graph.search_codes_where(codes, &data.passages, question, k, ef, |_| true).0;
                    hits.into_iter().map(|hit| hit.ordinal).collect()
                })
                .collect(),
            Engine::HnswRs { index, .. } => questions
                .map(|question| index.search(question, k, ef).into_iter().map(|found| found.d_id as u32).collect())
                .collect(),
            Engine::Exact => search(&data.passages, data.dim, &data.questions, k)
                .into_iter()
                .map(|hits| hits.into_iter().map(|hit| hit.ordinal).collect())
                .collect(),
        }
    }
}
