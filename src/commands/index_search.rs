//! `ragtune index search`: the passages nearest to a text.

use ragtune_index::{Allowed, Corpus, Search, Trust};
use serde::Serialize;

use super::index_change::ids_of;
use super::{announce_graph, locate, print_json, print_text};
use crate::cli::IndexSearchArgs;
use crate::error::{Error, Result};
use crate::models::encoder::Encoder;
use crate::models::{Grad, Role};
use crate::pipeline::identity::{encoder_of, searched_with};

#[derive(Serialize)]
struct Found {
    rank: usize,
    id: String,
    score: f32,
    title: String,
    text: String,
}

pub fn run(args: &IndexSearchArgs) -> Result<u8> {
    if args.query.trim().is_empty() {
        return Err(Error::new("`--query` is empty")
            .hint("give the text to look for, for instance `--query \"who wrote Hamlet\"`"));
    }
    if args.top_k == 0 {
        return Err(Error::new("`--top-k 0` asks for no passage, expected 1 or more")
            .hint("leave `--top-k` out for the nearest 5"));
    }
    let corpus = Corpus::open(&args.index)?;
    let name = match &args.encoder {
        Some(name) => name.clone(),
        None => encoder_of(&corpus)?,
    };
    let folder = locate(&name)?.folder;
    let encoder = Encoder::load(&folder, &crate::models::device::open(&args.device)?)?;
    let (corpus, generation, by) = searched_with(&corpus, &encoder, &folder)?;
    let allowed = allowed(&corpus, args)?;
    let tokenized = encoder.tokenize(&[args.query.as_str()], Role::Question)?;
    let vector = encoder.forward_as(&tokenized.ids, Role::Question, Grad::Off)?.flatten_all()?.to_vec1::<f32>()?;
    let how = if args.exact { Search::Exact } else { Search::Graph { ef: args.ef.max(args.top_k) } };
    announce_graph(&generation, how);
    let hits = match &allowed {
        None => generation.search(&vector, args.top_k, how, Trust::Same(&by))?,
        Some(allowed) => generation.search_among(&vector, args.top_k, how, Trust::Same(&by), allowed)?,
    };
    let hits: Vec<_> = hits.into_iter().flatten().collect();
    let ordinals: Vec<u32> = hits.iter().map(|hit| hit.ordinal).collect();
    let found: Vec<Found> = corpus
        .get(&ordinals)?
        .into_iter()
        .zip(&hits)
        .enumerate()
        .map(|(row, (passage, hit))| Found {
            rank: row + 1,
            id: passage.id,
            score: hit.score,
            title: passage.title,
            text: passage.text,
        })
        .collect();
    if args.json {
        print_json(&found)?;
    } else {
        for hit in &found {
            print_text(&format!("{:>3}  {:.4}  {}  {}\n     {}", hit.rank, hit.score, hit.id, hit.title, hit.text))?;
        }
    }
    Ok(0)
}

/// The passages that may be found, where not all may.
fn allowed(corpus: &Corpus, args: &IndexSearchArgs) -> Result<Option<Allowed>> {
    let by_condition = args.condition.as_deref().map(|condition| corpus.matching(condition)).transpose()?;
    let by_id = match &args.ids {
        Some(file) => Some(corpus.among(&ids_of(file)?)?),
        None => None,
    };
    Ok(match (by_condition, by_id) {
        (Some(one), Some(other)) => Some(one.and(&other)),
        (one, other) => one.or(other),
    })
}
