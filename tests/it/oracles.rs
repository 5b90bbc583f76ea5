//! What end-to-end training must come to, on real text: STRATEGIES oracle 26, first half (the second, a generator that ignores its
//! context, is in `objectives`).

use std::path::Path;

use crate::support::*;

/// Rank of the gold passage in the scores of an evaluation, by question; none where it was not found.
fn ranks(scores: &Path) -> Vec<(serde_json::Value, Option<usize>)> {
    let gold: std::collections::BTreeMap<String, String> = lines(&fixture("nq/train.jsonl"))
        .into_iter()
        .map(|q| (q["id"].as_str().unwrap().to_owned(), q["gold_passages"][0].as_str().unwrap().to_owned()))
        .collect();
    let rank = |score: &serde_json::Value| {
        let gold = &gold[score["id"].as_str().unwrap()];
        let id =
            |hit: &serde_json::Value| hit.as_str().map_or_else(|| hit["id"].as_str() == Some(gold), |id| id == gold);
        score["retrieved"].as_array().unwrap().iter().position(id).map(|place| place + 1)
    };
    lines(scores).into_iter().map(|score| (score["id"].clone(), rank(&score))).collect()
}

/// A generator that finds answers in passages, and questions whose own passage is retrieved second to fifth: the likelihood of
/// the answer alone, without a gold label, moves that passage to the first place.
#[test]
fn likelihood_alone_moves_the_passage_with_the_answer_to_the_first_place() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    build(&fixture("nq/corpus.jsonl"), &encoder(), &at("index")).done();
    let hundred = at("hundred.jsonl");
    first_lines(&fixture("nq/train.jsonl"), 100, &hundred);
    let generator = fixture("models/qa-llama");
    let evaluate = |questions: &Path, scores: &Path| {
        ragtune(&["eval", "--top-k", "5", "--max-answer-tokens", "1"])
            .with("--questions", questions)
            .with("--scores", scores)
    };
    evaluate(&hundred, &at("before")).with("--index", at("index")).with("--generator", &generator).run().done();
    let wanting: Vec<serde_json::Value> = ranks(&at("before"))
        .into_iter()
        .filter(|(_, rank)| rank.is_some_and(|r| (2..=5).contains(&r)))
        .map(|one| one.0)
        .collect();
    assert!(wanting.len() >= 10, "{}", wanting.len());
    let chosen: Vec<String> = lines(&hundred)
        .into_iter()
        .filter(|question| wanting.contains(&question["id"]))
        .map(|mut question| {
            // No label but the answer.
            question.as_object_mut().unwrap().remove("gold_passages");
            question.to_string()
        })
        .collect();
    std::fs::write(at("questions.jsonl"), chosen.join("\n") + "\n").unwrap();
    // The encoder through the frozen base generator, and nothing after it.
    std::fs::write(at("settings.toml"), "only-stages = 1\n").unwrap();
    ragtune(&["train", "--strategy", "two-phase-reversed", "--steps", "30", "--batch-size", "8", "--top-k", "5"])
        .and(&["--lr-encoder", "1e-4", "--schedule", "constant", "--eval-limit", "1"])
        .with("--config", at("settings.toml"))
        .with("--index", at("index"))
        .with("--questions", at("questions.jsonl"))
        .with("--eval-questions", fixture("nq/dev.jsonl"))
        .with("--generator", &generator)
        .with("--out", at("run"))
        .run()
        .done();
    evaluate(&at("questions.jsonl"), &at("after")).with("--run", at("run")).run().done();
    let after = ranks(&at("after"));
    let first = after.iter().filter(|(_, rank)| *rank == Some(1)).count();
    eprintln!("{first} of {} at the first place, of none before", after.len());
    assert!(2 * first >= after.len(), "{after:?}");
}
