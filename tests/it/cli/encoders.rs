//! Whose vectors may be searched by whom: fingerprints, generations side by side, question-side encoders.

use std::path::{Path, PathBuf};

use crate::support::*;

fn changed_weight(folder: &Path) -> PathBuf {
    let to = folder.join("other");
    copy(&encoder(), &to);
    edit_tensors(&to.join("model.safetensors"), |name, tensor| {
        if name.ends_with("embeddings.word_embeddings.weight") {
            tensor.values[5000] += 0.01;
        }
    });
    to
}

fn changed_pooling(folder: &Path) -> PathBuf {
    let to = folder.join("pooled");
    copy(&encoder(), &to);
    let path = to.join("1_Pooling/config.json");
    let mut config = json(&path);
    config["pooling_mode_mean_tokens"] = false.into();
    config["pooling_mode_cls_token"] = true.into();
    std::fs::write(path, config.to_string()).unwrap();
    to
}

fn stats(index: &Path) -> serde_json::Value {
    ragtune(&["index", "stats", "--json"]).with("--index", index).run().json()
}

#[test]
fn another_encoder_is_refused_with_both_fingerprints_and_served_after_a_build_of_its_own() {
    let folder = folder();
    let index = index_copy(folder.path());
    let query = "when did red bull come to the united states";
    let first = search(&index, query, 5, &[]);
    let first_fingerprint = stats(&index)["encoder"].as_str().unwrap().to_owned();
    let generator = small_generator();
    for (number, (other, differs)) in
        [(changed_weight(folder.path()), "weights"), (changed_pooling(folder.path()), "pooling")].iter().enumerate()
    {
        let says = [&format!("`{first_fingerprint}`"), *differs, "ragtune index build", "--encoder"];
        let by_other =
            || ragtune(&["index", "search", "--query", query]).with("--index", &index).with("--encoder", other);
        let refusal = if number == 0 { by_other().run().refused(&says) } else { by_other().run().refused(&says[1..]) };
        train("joint", &index, &folder.path().join("run")).with("--encoder", other).run().refused(&says[1..]);
        ragtune(&["eval"])
            .with("--index", &index)
            .with("--encoder", other)
            .with("--generator", &generator)
            .with("--questions", fixture("tiny/dev.jsonl"))
            .run()
            .refused(&says[1..]);

        // What the hint says, done: both are served, each by its own vectors.
        build(&fixture("tiny/corpus.jsonl"), other, &index).done();
        let after = stats(&index);
        let fingerprint = after["encoder"].as_str().unwrap();
        assert!(refusal.stderr.contains(&format!("`{fingerprint}`")), "both fingerprints are named: {refusal:#?}");
        assert_eq!(after["generations"].as_array().unwrap().len(), number + 2);
        by_other().run().done();
        assert_eq!(search(&index, query, 5, &["--encoder", encoder().to_str().unwrap()]), first);
    }
    assert!(is_clean(&index));
}

/// Vectors of another length cannot lie in the same index: what is to be typed is another folder.
#[test]
fn an_encoder_of_another_width_is_sent_to_an_index_of_its_own() {
    let hint = |encoder: &Path| {
        let search = ragtune(&["index", "search", "--query", "red bull"]).with("--index", base_index());
        let ran = search.with("--encoder", encoder).run().refused(&["fingerprint"]);
        ran.stderr.split("hint: ").nth(1).unwrap().to_owned()
    };
    let said = hint(&fixture("golden/encoder"));
    assert!(said.contains("160") && said.contains("<new folder>") && !said.contains("index refresh"), "{said}");
    let folder = folder();
    let same = changed_weight(folder.path());
    let said = hint(&same);
    assert!(said.contains(&format!("ragtune index refresh --index {}", base_index().display())), "{said}");
    // Done as it says, both are served.
    let index = index_copy(folder.path());
    ragtune(&["index", "refresh"]).with("--index", &index).with("--encoder", &same).run().done();
    for encoder in [&same, &encoder()] {
        assert_eq!(search(&index, "red bull", 2, &["--encoder", encoder.to_str().unwrap()]).len(), 2);
    }
}

/// Training the question side leaves every stored vector as it is: the trained encoder searches those of its base.
#[test]
fn a_question_side_encoder_searches_the_vectors_of_its_base() {
    let folder = folder();
    let index = index_copy(folder.path());
    let out = folder.path().join("run");
    train("joint", &index, &out).and(&["--steps", "3", "--lr-encoder", "1e-3"]).run().done();
    let before = files(base_index());
    assert_eq!(files(&index), before, "the index was only read");
    let trained = out.join("encoder");
    assert_ne!(digest(&trained.join("model.safetensors")), digest(&encoder().join("model.safetensors")));
    let query = "when did red bull come to the united states";
    let found = search(&index, query, 5, &["--encoder", trained.to_str().unwrap()]);
    assert_eq!(found.len(), 5);
    // It is the trained encoder that asks: scores differ from the base's.
    let score = |encoder: &Path| {
        ragtune(&["index", "search", "--json", "--query", query])
            .with("--index", &index)
            .with("--encoder", encoder)
            .run()
            .json()[0]["score"]
            .as_f64()
            .unwrap()
    };
    assert_ne!(score(&trained), score(&encoder()));
    let questions = fixture("tiny/dev.jsonl");
    let evaluated =
        ragtune(&["eval", "--limit", "4", "--json"]).with("--run", &out).with("--questions", &questions).run().json();
    assert_eq!(evaluated["summary"]["generation"], 1);
    // Moved elsewhere it is still known for what it is; on an index of another base it is refused.
    let moved = folder.path().join("moved");
    std::fs::rename(&trained, &moved).unwrap();
    assert_eq!(search(&index, query, 5, &["--encoder", moved.to_str().unwrap()]), found);
    let elsewhere = folder.path().join("elsewhere");
    build(&fixture("tiny/corpus.jsonl"), &changed_weight(folder.path()), &elsewhere).done();
    ragtune(&["index", "search", "--query", query])
        .with("--index", &elsewhere)
        .with("--encoder", &moved)
        .run()
        .refused(&["fingerprint", "weights"]);
}

/// After training both sides the newest generation is the trained encoder's; the base encoder still finds its own.
#[test]
fn a_fully_trained_encoder_and_its_base_are_served_side_by_side() {
    let folder = folder();
    let index = index_copy(folder.path());
    let query = "when did red bull come to the united states";
    let first = search(&index, query, 5, &[]);
    for round in ["one", "two"] {
        let out = folder.path().join(round);
        train("joint", &index, &out)
            .and(&["--steps", "2", "--train-passages", "true", "--refresh-every", "1", "--lr-encoder", "1e-3"])
            .run()
            .done();
        let record = json(&out.join("record.json"));
        assert_eq!(record["index"]["base_generation"], 1, "every run starts from the base encoder's vectors");
        search(&index, query, 5, &["--encoder", out.join("encoder").to_str().unwrap()]);
        assert_eq!(search(&index, query, 5, &["--encoder", encoder().to_str().unwrap()]), first);
        assert_eq!(search(&index, query, 5, &[]), first, "without --encoder: the one the index was built with");
    }
    let said = ragtune(&["index", "search", "--query", query]).with("--index", &index).run().done();
    assert!(said.stderr.contains("does not say which encoder embedded it"), "an earlier generation answers: {said:#?}");
    // The first run's generation is kept as long as the run may need it.
    search(&index, query, 5, &["--encoder", folder.path().join("one/encoder").to_str().unwrap()]);
    assert!(is_clean(&index));
}

/// The note of a build comes when everything is done; which encoder it was is known from the commit on.
#[test]
fn a_refresh_that_was_killed_behind_its_commit_is_searched_and_refreshed_by_its_own_encoder() {
    let folder = folder();
    let index = index_copy(folder.path());
    let other = changed_pooling(folder.path());
    let query = "when did red bull come to the united states";
    ragtune(&["index", "refresh"]).with("--index", &index).with("--encoder", &other).run().done();
    let found = search(&index, query, 5, &["--encoder", other.to_str().unwrap()]);
    let fingerprint = stats(&index)["encoder"].clone();
    // What a kill right behind the commit leaves: the generation without its sidecar, and so without its note.
    let generations = index.join("generations");
    let current = std::fs::read_to_string(generations.join("CURRENT")).unwrap();
    std::fs::remove_dir_all(generations.join(current.trim())).unwrap();
    let mended = || drop(ragtune(&["index", "check", "--mend"]).with("--index", &index).run().done());
    for mend in [None, Some(mended)] {
        if let Some(mend) = mend {
            mend();
        }
        assert_eq!(search(&index, query, 5, &[]), found);
        let said = ragtune(&["index", "search", "--query", query]).with("--index", &index).run().done();
        assert!(!said.stderr.contains("note:"), "{said:#?}");
    }
    ragtune(&["index", "refresh"]).with("--index", &index).run().done();
    assert_eq!(stats(&index)["encoder"], fingerprint);
    assert!(is_clean(&index));
}
