//! `ragtune index search`: the passages nearest to a text, or those that share its words.

use ragtune_index::{Allowed, Corpus, Hit, Keep, Search, Trust};
use serde::Serialize;

use super::index_change::ids_of;
use super::{announce_graph, announce_vectors, announce_words, default_encoder, locate, print_json, print_text};
use crate::cli::IndexSearchArgs;
use crate::config::at_least_one;
use crate::error::{Error, Result};
use crate::models::encoder::Encoder;
use crate::models::{Grad, Role};
use crate::pipeline::held;
use crate::pipeline::identity::searched_with;
use crate::pipeline::retriever::{ByVectors, Kind, Retriever, RetrieverSettings};

#[derive(Serialize)]
struct Found {
    rank: usize,
    /// The generation whose vectors were searched; none where words alone were.
    generation: Option<u32>,
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
    at_least_one("--ef", args.ef)?;
    let settings = args.retriever.settings()?;
    let vectors = held::wanted(args.vectors.as_deref(), settings.kind, args.exact)?;
    let corpus = Corpus::open(&args.index)?.holding(vectors);
    let newest = corpus.generations()?.last().map(|info| info.number);
    let Searched { corpus, hits, generation } = match settings.kind {
        Kind::Bm25 => by_words(args, settings, corpus)?,
        Kind::Dense | Kind::Hybrid => by_vectors(args, settings, &corpus)?,
    };
    let ordinals: Vec<u32> = hits.iter().map(|hit| hit.ordinal).collect();
    let found: Vec<Found> = corpus
        .get(&ordinals)?
        .into_iter()
        .zip(&hits)
        .enumerate()
        .map(|(row, (passage, hit))| Found {
            rank: row + 1,
            generation,
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
        if found.is_empty() {
            eprintln!("no passage is among those asked for");
        }
        match (generation, newest) {
            (Some(one), Some(newest)) if one != newest => {
                eprintln!("answered from generation {one}, which this encoder may search; the newest is {newest}");
            }
            (Some(one), _) => eprintln!("answered from generation {one}"),
            (None, _) => {}
        }
    }
    Ok(0)
}

/// What was found, and where.
struct Searched {
    corpus: Corpus,
    hits: Vec<Hit>,
    generation: Option<u32>,
}

/// With the encoder, by it alone or by words too; with the passages that it embedded.
fn by_vectors(args: &IndexSearchArgs, settings: RetrieverSettings, corpus: &Corpus) -> Result<Searched> {
    let name = match &args.encoder {
        Some(name) => name.clone(),
        None => default_encoder(corpus)?,
    };
    let folder = locate(&name)?.folder;
    let encoder = Encoder::load(&folder, &crate::models::device::open(&args.device)?)?;
    let (corpus, generation, by) = searched_with(corpus, &encoder, &folder)?;
    let retriever = Retriever::open(settings, &corpus, Keep::IfFree)?;
    announce_words(&retriever);
    let allowed = allowed(&corpus, args)?;
    let tokenized = encoder.tokenize(&[args.query.as_str()], Role::Question)?;
    let vector = encoder.forward_as(&tokenized.ids, Role::Question, Grad::Off)?.flatten_all()?.to_vec1::<f32>()?;
    let how = if args.exact { Search::Exact } else { Search::Graph { ef: args.ef.max(args.top_k) } };
    announce_graph(&generation, how);
    announce_vectors(&generation);
    let walked = generation.is_walked(args.top_k, how, allowed.as_ref());
    if let (Some(codes), false, true) = (generation.held().codes, args.json, walked) {
        eprintln!(
            "walking by {}, recall@10 {:.4} against exact search on {} probes; scores are those of float32",
            generation.held().vectors.name(),
            codes.recall_at_10,
            codes.probes
        );
    }
    let by = ByVectors { generation: &generation, search: how, trust: Trust::Same(&by), vectors: Some(&vector) };
    let found = retriever.find(&[&args.query], by, args.top_k, allowed.as_ref())?;
    let hits = found.hits.into_iter().flatten().collect();
    Ok(Searched { corpus, hits, generation: Some(generation.number()) })
}

/// Without it, among the newest passages: no model is loaded.
fn by_words(args: &IndexSearchArgs, settings: RetrieverSettings, corpus: Corpus) -> Result<Searched> {
    let retriever = Retriever::open(settings, &corpus, Keep::IfFree)?;
    announce_words(&retriever);
    let allowed = allowed(&corpus, args)?;
    let found = retriever.by_words(&[&args.query], args.top_k, allowed.as_ref())?;
    let matched = found.iter().map(|found| found.matched).sum();
    let hits: Vec<Hit> = found.into_iter().flat_map(|found| found.hits).collect();
    if hits.len() > matched {
        let which = if allowed.is_some() { " of those that may be found" } else { "" };
        let share = match matched {
            0 => format!("no passage{which} shares a word with the query"),
            1 => format!("one passage{which} shares a word with the query"),
            more => format!("{more} passages{which} share a word with the query"),
        };
        eprintln!("{share}; others follow in the order of the corpus, with score 0");
    }
    Ok(Searched { corpus, hits, generation: None })
}

/// The passages that may be found, where not all may.
fn allowed(corpus: &Corpus, args: &IndexSearchArgs) -> Result<Option<Allowed>> {
    let by_condition = args.condition.as_deref().map(|condition| corpus.matching(condition)).transpose()?;
    let by_id = match &args.ids {
        Some(file) => {
            let ids = ids_of(file);
            Some(corpus.among(&ids.map_err(|error| error.or_hint("`--ids` takes a file with one id a line"))?)?)
        }
        None => None,
    };
    Ok(match (by_condition, by_id) {
        (Some(one), Some(other)) => Some(one.and(&other)),
        (one, other) => one.or(other),
    })
}
