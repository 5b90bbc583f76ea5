//! `ragtune index search`: the passages nearest to a text, or those that share its words.

use ragtune_index::{Corpus, Generation, Hit, Keep, Search, Trust};
use serde::Serialize;

use super::{announce_graph, announce_words, locate, print_json, print_text};
use crate::cli::IndexSearchArgs;
use crate::error::{Error, Result};
use crate::models::encoder::Encoder;
use crate::models::{Grad, Role};
use crate::pipeline::identity::{encoder_of, searched_by};
use crate::pipeline::retriever::Retriever;

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
    let settings = args.retriever.settings()?;
    let corpus = Corpus::open(&args.index)?;
    let retriever = Retriever::open(settings, &corpus, Keep::IfFree)?;
    announce_words(&retriever);
    let hits = match retriever.embeds_questions() {
        true => by_vectors(args, &corpus, &retriever)?,
        false => by_words(args, &retriever)?,
    };
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

/// With the encoder: by it alone, or by words too.
fn by_vectors(args: &IndexSearchArgs, corpus: &Corpus, retriever: &Retriever) -> Result<Vec<Hit>> {
    let name = match &args.encoder {
        Some(name) => name.clone(),
        None => encoder_of(corpus)?,
    };
    let folder = locate(&name)?.folder;
    let encoder = Encoder::load(&folder, &crate::models::device::open(&args.device)?)?;
    let (generation, by): (Generation, _) = searched_by(corpus, &encoder, &folder)?;
    let tokenized = encoder.tokenize(&[args.query.as_str()], Role::Question)?;
    let vector = encoder.forward_as(&tokenized.ids, Role::Question, Grad::Off)?.flatten_all()?.to_vec1::<f32>()?;
    let how = if args.exact { Search::Exact } else { Search::Graph { ef: args.ef.max(args.top_k) } };
    announce_graph(&generation, how);
    let found = retriever.find(&generation, how, &[&args.query], Some(&vector), args.top_k, Trust::Same(&by))?;
    Ok(found.hits.into_iter().flatten().collect())
}

/// Without it: no model is loaded.
fn by_words(args: &IndexSearchArgs, retriever: &Retriever) -> Result<Vec<Hit>> {
    let Some(found) = retriever.by_words(&[&args.query], args.top_k)?.pop() else { return Ok(Vec::new()) };
    if found.matched < found.hits.len() {
        eprintln!(
            "{} passages share a word with the query; the first of the corpus follow, with score 0",
            if found.matched == 0 { "no".to_owned() } else { format!("only {}", found.matched) }
        );
    }
    Ok(found.hits)
}
