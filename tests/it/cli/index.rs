//! `ragtune index`: build, search, stats, check.

use std::time::{Duration, Instant};

use crate::support::*;

#[test]
fn stats_hold_what_a_build_made_and_took() {
    let folder = folder();
    let out = folder.path().join("index");
    let built = build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &out)
        .and(&["--links", "8", "--ef-construction", "50", "--batch-tokens", "512", "--json"])
        .run()
        .json();
    let mut stats = ragtune(&["index", "stats", "--json"]).with("--index", &out).run().json();
    assert_eq!(built, stats, "a build prints the statistics of what it built");
    assert_eq!(stats["passages"], 60);
    assert_eq!(stats["dimension"], 160);
    assert_eq!(stats["generation"], 1);
    assert_eq!(stats["generations"], serde_json::json!([1]));
    assert_eq!((&stats["graph_links"], &stats["graph_ef_construction"]), (&8.into(), &50.into()));
    assert_eq!(stats["corpus_blake3"], digest(&fixture("tiny/corpus.jsonl")));
    assert!(stats["graph_recall_at_10"].as_f64().unwrap() > 0.9);
    assert_eq!(stats["graph_probes"], 60);
    assert!(stats["embedding_passages_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(stats["encoder"].as_str().unwrap().len(), 16);
    for property in
        ["weights", "tokenizer", "pooling", "query_prefix", "passage_prefix", "normalize", "max_length", "dtype"]
    {
        assert!(stats["fingerprint"][property].is_string(), "{property}: {stats:#}");
    }
    for phase in ["load", "embed", "graph", "write"] {
        assert!(stats["build_seconds"][phase].as_f64().unwrap() > 0.0, "{phase}: {stats:#}");
    }
    // Every byte of the folder is of some kind.
    let bytes = stats["bytes"].as_object_mut().unwrap();
    assert!(["text", "vectors", "graphs"].iter().all(|kind| bytes[*kind].as_u64().unwrap() > 0), "{bytes:?}");
    assert!(bytes["vectors"].as_u64().unwrap() >= 60 * 160 * 4);
    let total: u64 = bytes.values().map(|kind| kind.as_u64().unwrap()).sum();
    let on_disk: u64 = files(&out).iter().map(|file| out.join(file).metadata().unwrap().len()).sum();
    assert_eq!(total, on_disk);
    let text = ragtune(&["index", "stats"]).with("--index", &out).run().done().stdout;
    for part in ["60 passages", "160 dimensions", "recall@10", "pooling: mean", "passages/s"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn building_again_changes_nothing() {
    let folder = folder();
    let out = folder.path().join("index");
    let first = build(&fixture("tiny/corpus.jsonl"), &encoder(), &out).done();
    assert!(first.stdout.contains("ragtune index search"), "says what to type next: {first:#?}");
    let before: Vec<String> = files(&out).iter().map(|file| digest(&out.join(file))).collect();
    let names = files(&out);
    let second = build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &out).and(&["--json"]).run().done();
    assert!(second.stderr.contains("nothing to embed"), "{second:#?}");
    let stats: serde_json::Value = serde_json::from_str(&second.stdout).unwrap();
    assert_eq!(stats["generations"], serde_json::json!([1]));
    assert_eq!(files(&out), names);
    for (name, before) in names.iter().zip(before) {
        // The lock names the last writer.
        assert!(digest(&out.join(name)) == before || name.ends_with("LOCK"), "{name:?}");
    }
}

#[test]
fn a_passage_is_nearest_to_its_own_text_and_the_graph_finds_what_exact_search_finds() {
    for passage in lines(&fixture("tiny/corpus.jsonl")).iter().step_by(12) {
        let query = format!("{} {}", passage["title"].as_str().unwrap(), passage["text"].as_str().unwrap());
        let found = ragtune(&["index", "search", "--json", "--top-k", "10", "--query", &query])
            .with("--index", base_index())
            .run()
            .json();
        let found = found.as_array().unwrap();
        assert_eq!(found.len(), 10);
        assert_eq!(found[0]["id"], passage["id"]);
        assert_eq!((&found[0]["title"], &found[0]["text"]), (&passage["title"], &passage["text"]));
        assert!(found[0]["score"].as_f64().unwrap() > 0.99, "the same text, the same vector");
        let scores: Vec<f64> = found.iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        let ranks: Vec<u64> = found.iter().map(|hit| hit["rank"].as_u64().unwrap()).collect();
        assert_eq!(ranks, (1..=10).collect::<Vec<_>>());
        let exact = ragtune(&["index", "search", "--json", "--exact", "--top-k", "10", "--query", &query])
            .with("--index", base_index())
            .run()
            .json();
        assert_eq!(serde_json::json!(found), exact, "on 60 passages the graph misses nothing");
    }
    let text =
        ragtune(&["index", "search", "--query", "red bull", "--top-k", "1"]).with("--index", base_index()).run().done();
    assert!(text.stdout.contains("Red Bull"), "{text:#?}");
}

#[test]
fn check_finds_a_fresh_index_clean_in_text_and_json() {
    let check = ragtune(&["index", "check"]).with("--index", base_index()).run().done();
    assert!(check.stdout.contains("clean"), "{check:#?}");
    assert_eq!(
        ragtune(&["index", "check", "--json"]).with("--index", base_index()).run().json(),
        serde_json::json!([])
    );
}

#[test]
fn a_build_killed_at_any_moment_is_finished_by_the_next() {
    let folder = folder();
    let corpus = folder.path().join("corpus.jsonl");
    first_lines(&fixture("nq/corpus.jsonl"), 240, &corpus);
    let whole = folder.path().join("whole");
    let start = Instant::now();
    build(&corpus, &encoder(), &whole).done();
    let took = start.elapsed();
    let queries = ["who sang the song", "when was the war", "capital of the country"];
    let right: Vec<_> = queries.iter().map(|query| search(&whole, query, 5, &[])).collect();

    let out = folder.path().join("killed");
    const ROUNDS: u32 = 5;
    for round in 0..ROUNDS {
        // Spread over the time a build takes, from hardly begun to nearly done.
        let running = build_command(&corpus, &encoder(), &out).start();
        std::thread::sleep(took * (2 * round + 1) / (2 * ROUNDS) + Duration::from_millis(10));
        running.kill();
        if out.join("corpus.lance").exists() {
            // Readable or not yet searchable, never something else.
            let ran = ragtune(&["index", "search", "--query", queries[0], "--json"]).with("--index", &out).run();
            if ran.code != Some(0) {
                let naming = ran.stderr.contains("does not say which encoder built it");
                ran.refused(if naming { &["--encoder DIR"] } else { &["interrupted", "ragtune index build"] });
            }
        }
    }
    build(&corpus, &encoder(), &out).done();
    assert!(is_clean(&out), "{:?}", ragtune(&["index", "check"]).with("--index", &out).run());
    for (query, right) in queries.iter().zip(right) {
        assert_eq!(search(&out, query, 5, &[]), right, "{query}");
    }
}
