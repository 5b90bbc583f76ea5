//! `ragtune train` as typed: settings, dry run, what is printed and what is left.

use crate::support::*;

#[test]
fn a_dry_run_prints_settings_and_refreshes_and_makes_nothing() {
    let folder = folder();
    let index = index_copy(folder.path());
    let before: Vec<_> = files(&index).iter().map(|file| digest(&index.join(file))).collect();
    let out = folder.path().join("run");
    let ran = train("joint", &index, &out)
        .and(&["--train-passages", "true", "--refresh-every", "4", "--steps", "10", "--dry-run"])
        .run()
        .done();
    assert!(!out.exists());
    assert_eq!(files(&index).iter().map(|file| digest(&index.join(file))).collect::<Vec<_>>(), before);
    // After steps 4 and 8 and once at the end.
    assert!(ran.stdout.contains("3 refreshes of 60 passages: 180 passages to embed"), "{ran:#?}");
    assert!(ran.stdout.contains("passages/s of the index build"), "{ran:#?}");
    // What is printed is a settings file.
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, &ran.stdout).unwrap();
    let again = ragtune(&["train", "--dry-run"]).with("--config", &file).run().done();
    // What is loaded is measured, and never twice the same to the byte.
    let settled = |text: &str| text.split("\n# expected memory").next().unwrap().to_owned();
    assert_eq!(settled(&again.stdout), settled(&ran.stdout));
    assert_ne!(settled(&ran.stdout), ran.stdout);
    let said = ragtune(&["train", "--dry-run", "--json"]).with("--config", &file).run().json();
    assert_eq!((&said["refreshes"], &said["passages_to_embed"]), (&3.into(), &180.into()));
    assert_eq!((&said["settings"]["refresh-every"], &said["memory"]["refused"]), (&4.into(), &serde_json::Value::Null));
    // And what it counted is what happens.
    ragtune(&["train"]).with("--config", &file).run().done();
    let record = json(&out.join("record.json"));
    assert_eq!(record["refreshes"].as_array().unwrap().len(), 3);
    let ratio = record["expected_memory_bytes"].as_f64().unwrap() / said["expected_memory_bytes"].as_f64().unwrap();
    assert!((0.9..1.1).contains(&ratio), "a run expects {ratio} of what its dry run said");
    let parts =
        ["loaded", "training", "activations", "refresh", "evaluation"].map(|part| said["memory"][part].as_u64());
    let [loaded, training, activations, refresh, evaluation] = parts.map(Option::unwrap);
    let peak = loaded + training + activations.max(refresh).max(evaluation);
    assert!(peak.abs_diff(said["expected_memory_bytes"].as_u64().unwrap()) < 4, "{said:#}");
    assert!(training > 0 && refresh > 0, "{said:#}");
    let frozen = train("frozen", &index, &folder.path().join("other")).and(&["--dry-run"]).run().done();
    assert!(frozen.stdout.contains("0 refreshes"), "{frozen:#?}");
}

#[test]
fn flags_win_over_the_settings_file() {
    let folder = folder();
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, "steps = 3\nseed = 5\ntop-k = 1\n").unwrap();
    let out = folder.path().join("run");
    train("generator", base_index(), &out).with("--config", &file).and(&["--seed", "6"]).run().done();
    let record = json(&out.join("record.json"));
    assert_eq!(
        (&record["config"]["steps"], &record["config"]["seed"], &record["config"]["top-k"]),
        (&3.into(), &6.into(), &2.into())
    );
    assert_eq!(lines(&out.join("metrics.jsonl")).len(), 3);
}

#[test]
fn json_is_the_record_and_nothing_else() {
    let folder = folder();
    let out = folder.path().join("run");
    let printed = train("joint", base_index(), &out).and(&["--steps", "2", "--json", "--eval-every", "1"]).run().json();
    let record = json(&out.join("record.json"));
    assert_eq!(printed, record);
    assert_eq!(record["schema"], 1);
    assert_eq!(record["status"], "finished");
    assert_eq!((&record["steps_done"], &record["steps_total"]), (&2.into(), &2.into()));
    assert!(record["source"].as_str().unwrap().contains("arXiv"));
    assert!(record["command"].as_array().unwrap().iter().any(|word| word == "--eval-every"));
    let names: Vec<&str> =
        record["evaluations"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["step-1", "final"]);
    for (evaluation, step) in record["evaluations"].as_array().unwrap().iter().zip([1, 2]) {
        assert_eq!(evaluation["step"], step);
        assert_eq!(lines(&out.join(evaluation["scores_file"].as_str().unwrap())).len(), 4);
    }
    assert_eq!(record["data"]["eval_questions"]["count"], 20);
    assert_eq!(record["data"]["corpus"]["hash"], digest(&fixture("tiny/corpus.jsonl")));
    assert!(record["machine"]["cores"].as_u64().unwrap_or(0) > 0 || record["machine"].as_object().unwrap().len() > 2);
    assert!(!out.join("checkpoints").exists(), "a finished run needs none");
}

#[test]
fn text_says_quality_cost_and_what_to_type_next() {
    let folder = folder();
    let out = folder.path().join("run");
    let ran = train("embedder", base_index(), &out).and(&["--steps", "2"]).run().done();
    for part in ["EM ", "F1 ", "recall@5", "refreshes", "not attributed", &format!("ragtune compare {}", out.display())]
    {
        assert!(ran.stdout.contains(part), "{part}: {ran:#?}");
    }
}

#[test]
fn strategies_are_listed_with_their_sources() {
    let listed = ragtune(&["strategies", "--json"]).run().json();
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    let table: Vec<&str> = ragtune::strategies::STRATEGIES.iter().map(|strategy| strategy.name).collect();
    assert_eq!(names, table);
    assert!(listed.as_array().unwrap().iter().all(|one| !one["source"].as_str().unwrap().is_empty()));
    let text = ragtune(&["strategies"]).run().done().stdout;
    assert!(names.iter().all(|name| text.contains(name)), "{text}");
    for stage in listed.as_array().unwrap().iter().flat_map(|one| one["stages"].as_array().unwrap()) {
        assert!(text.contains(stage["equation"].as_str().unwrap()), "{stage}: {text}");
    }
}

#[test]
fn help_and_version() {
    for words in [&["--help"][..], &["train", "--help"], &["index", "build", "--help"], &["eval", "--help"]] {
        assert!(ragtune(words).run().done().stdout.contains("Usage: ragtune"), "{words:?}");
    }
    assert!(ragtune(&["--version"]).run().done().stdout.contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(ragtune(&[]).run().code, Some(2));
}

/// Every number stays finite, and the model is gone: that is warned of before, said in the end, and kept in the record.
#[test]
fn a_model_that_is_destroyed_is_no_success_without_a_word() {
    let folder = folder();
    let out = folder.path().join("run");
    let rates = ["--steps", "4", "--lr-encoder", "1000", "--lr-generator", "1000"];
    let ran = train_with(&fixture("models/qa-llama"), "joint", base_index(), &out).and(&rates).run().done();
    let record = json(&out.join("record.json"));
    for part in [
        "`--lr-encoder 1000` moves every weight",
        "`--lr-generator 1000` moves every weight",
        "the gradient of the generator was exactly zero in 3 of the 4 steps of stage `joint`",
        "the loss of stage `joint` rose from ",
    ] {
        assert_eq!(ran.stderr.matches(&format!("warning: {part}")).count(), 1, "{part}: {ran:#?}");
        assert!(record["notes"].to_string().contains(part), "{part}: {record:#}");
    }
    // Training as usual says nothing of the kind.
    let out = folder.path().join("usual");
    let ran = train_with(&fixture("models/qa-llama"), "joint", base_index(), &out).and(&["--steps", "4"]).run().done();
    assert!(!ran.stderr.contains("exactly zero") && !ran.stderr.contains("rose from"), "{ran:#?}");
}

/// A run on an index that others use says which generation is its own, and which its refreshes cost the index; a search says which
/// one it answered from.
#[test]
fn generations_that_a_run_adds_and_removes_are_said() {
    let folder = folder();
    let (index, out) = (index_copy(folder.path()), folder.path().join("run"));
    let moving = ["--train-passages", "true", "--refresh-every", "1", "--steps", "3", "--lr-encoder", "1e-3"];
    let ran = train("joint", &index, &out).and(&moving).run().done();
    let record = json(&out.join("record.json"));
    let last = record["index"]["final_generation"].as_u64().unwrap();
    let kept = ragtune(&["index", "stats", "--json"]).with("--index", &index).run().json()["generations"].clone();
    let kept: Vec<u64> = kept.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect();
    let list = |numbers: Vec<u64>| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let gone: Vec<u64> = (1..=last).filter(|number| !kept.contains(number)).collect();
    let says = format!("index: generation {last} is this run's, 1 was searched before; no longer retained: ");
    assert!(ran.stdout.contains(&says), "{ran:#?}");
    assert!(ran.stdout.contains(&format!("; retained: {}\n", list(kept))), "{ran:#?}");
    assert!(!gone.is_empty() && ran.stdout.contains(&format!("no longer retained: {};", list(gone))), "{ran:#?}");
    for (encoder, generation) in [(encoder(), 1), (out.join("encoder"), last)] {
        let search = |more: &[&str]| {
            ragtune(&["index", "search", "--query", "red bull", "--top-k", "1"])
                .with("--index", &index)
                .with("--encoder", &encoder)
                .and(more)
                .run()
        };
        assert_eq!(search(&["--json"]).json()[0]["generation"], generation);
        assert!(search(&[]).done().stderr.contains(&format!("answered from generation {generation}")));
    }
    // By words alone no vector is looked at, and where nothing may be found that is said.
    let words =
        ragtune(&["index", "search", "--json", "--query", "red bull", "--retriever", "bm25"]).with("--index", &index);
    assert!(words.run().json()[0]["generation"].is_null());
    let none =
        ragtune(&["index", "search", "--query", "red bull", "--where", "title = 'nowhere'"]).with("--index", &index);
    let none = none.run().done();
    assert!(none.stdout.is_empty() && none.stderr.contains("no passage is among those asked for"), "{none:#?}");
}

/// What was expected before the first step is what was used in the end, to a quarter.
#[test]
fn memory_is_estimated_before_training() {
    let folder = folder();
    for (name, words) in [("kept", &[][..]), ("twice", &["--gradient-checkpointing"])] {
        let out = folder.path().join(name);
        ragtune(&["train", "--strategy", "generator", "--steps", "3", "--batch-size", "16", "--top-k", "5"])
            .with("--index", base_index())
            .with("--questions", fixture("tiny/train.jsonl"))
            .with("--eval-questions", fixture("tiny/dev.jsonl"))
            .with("--generator", fixture("models/qa-llama"))
            .with("--out", &out)
            .and(&["--batch-tokens", "100000", "--eval-limit", "1"])
            .and(words)
            .run()
            .done();
        let record = json(&out.join("record.json"));
        let expected = record["expected_memory_bytes"].as_f64().unwrap();
        let entries = record["ledger"]["entries"].as_array().unwrap();
        let peak = entries.iter().filter_map(|entry| entry["peak_memory_bytes"].as_f64()).fold(0.0, f64::max);
        assert!((0.75..1.25).contains(&(expected / peak)), "{name}: expected {expected}, used {peak}");
    }
}

/// What an adapter was trained with is in the record and in peft's file, and its scale is that of what answers.
#[test]
fn a_rank_stabilised_adapter_with_dropout_is_recorded_and_saved() {
    let folder = folder();
    let out = folder.path().join("run");
    train("generator", base_index(), &out)
        .and(&["--steps", "2", "--lora-rank", "4", "--rslora", "--lora-dropout", "0.25", "--dropout", "config"])
        .run()
        .done();
    let record = json(&out.join("record.json"));
    assert_eq!((&record["config"]["rslora"], &record["config"]["lora-dropout"]), (&true.into(), &0.25.into()));
    assert_eq!(record["config"]["dropout"], "config");
    let adapter = json(&out.join("adapter/adapter_config.json"));
    assert_eq!((&adapter["use_rslora"], &adapter["lora_dropout"]), (&true.into(), &0.25.into()));
    let said = ragtune(&["inspect"]).and(&[out.join("adapter").to_str().unwrap()]).run().done().stdout;
    assert!(said.contains("rank-stabilised") && said.contains("0.25 of its inputs"), "{said}");
    let plain = folder.path().join("plain");
    train("generator", base_index(), &plain).and(&["--steps", "2", "--lora-rank", "4"]).run().done();
    let adapter = json(&plain.join("adapter/adapter_config.json"));
    assert_eq!((&adapter["use_rslora"], &adapter["lora_dropout"]), (&false.into(), &0.0.into()));
    let metrics = |out: &std::path::Path| std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_ne!(metrics(&plain), metrics(&out));
    train("generator", base_index(), &folder.path().join("none"))
        .and(&["--rslora"])
        .run()
        .refused(&["--rslora", "--lora-rank"]);
}

/// Ranking needs no answers, and so does everything that is done before it.
#[test]
fn an_embedder_trains_on_questions_without_answers() {
    let folder = folder();
    let questions = folder.path().join("unanswered.jsonl");
    let lines: Vec<String> = lines(&fixture("tiny/train.jsonl"))
        .into_iter()
        .map(|mut line| {
            line["answers"] = serde_json::json!([]);
            line.to_string()
        })
        .collect();
    std::fs::write(&questions, lines.join("\n") + "\n").unwrap();
    ragtune(&[
        "train",
        "--strategy",
        "embedder",
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--top-k",
        "2",
        "--eval-limit",
        "1",
    ])
    .with("--index", base_index())
    .with("--questions", &questions)
    .with("--eval-questions", fixture("tiny/dev.jsonl"))
    .with("--generator", fixture("models/qa-llama"))
    .with("--out", folder.path().join("run"))
    .run()
    .done();
}
