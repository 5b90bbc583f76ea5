//! Settings that cannot be meant. Refused before any work, and before the run folder exists.

use crate::support::*;

#[track_caller]
fn train_is_refused(strategy: &str, words: &[&str], says: &[&str]) {
    let folder = folder();
    let out = folder.path().join("run");
    train(strategy, base_index(), &out).and(words).run().refused(says);
    assert!(!out.exists(), "a run that never began leaves nothing in the way of the next");
}

#[test]
fn more_passages_than_the_corpus_has() {
    let folder = folder();
    let out = folder.path().join("run");
    ragtune(&["train", "--strategy", "joint", "--top-k", "61"])
        .with("--index", base_index())
        .with("--questions", fixture("tiny/train.jsonl"))
        .with("--eval-questions", fixture("tiny/dev.jsonl"))
        .with("--generator", small_generator())
        .with("--out", &out)
        .run()
        .refused(&["61", "60", "--top-k 60"]);
    assert!(!out.exists());
    ragtune(&["eval", "--top-k", "61"])
        .with("--index", base_index())
        .with("--generator", small_generator())
        .with("--questions", fixture("tiny/dev.jsonl"))
        .run()
        .refused(&["61", "60", "--top-k 60"]);
    for more in [&[][..], &["--exact"]] {
        ragtune(&["index", "search", "--query", "rain", "--top-k", "61"])
            .with("--index", base_index())
            .and(more)
            .run()
            .refused(&["61", "60", "--top-k 60"]);
    }
    ragtune(&["index", "search", "--query", "rain", "--top-k", "0"])
        .with("--index", base_index())
        .run()
        .refused(&["--top-k 0"]);
}

#[test]
fn an_unknown_strategy() {
    train_is_refused("jiont", &[], &["`jiont`", "frozen", "embedder", "generator", "joint"]);
}

#[test]
fn flags_that_contradict_each_other() {
    train_is_refused(
        "frozen",
        &["--train-passages", "true"],
        &["--train-passages", "--strategy frozen", "contradicts"],
    );
    train_is_refused("generator", &["--train-passages", "true"], &["--train-passages", "--strategy generator"]);
    train_is_refused("joint", &["--reader", "concat"], &["--reader concat", "--strategy joint"]);
    train_is_refused("joint", &["--reader", "both"], &["`both`", "mixture"]);
    train_is_refused("joint", &["--temperature", "0"], &["--temperature"]);
    train_is_refused("joint", &["--lr-encoder", "NaN"], &["--lr-encoder"]);
    train_is_refused("joint", &["--lora-rank", "0"], &["--lora-rank 0"]);
    train_is_refused("joint", &["--lora-rank", "2", "--lora-targets", "no_proj"], &["no_proj"]);
    train_is_refused("joint", &["--schedule", "wavy"], &["`wavy`"]);
    train_is_refused("joint", &["--device", "tpu"], &["`tpu`", "cuda:N"]);
    ragtune(&["eval"]).with("--questions", fixture("tiny/dev.jsonl")).run().refused(&[
        "--run",
        "--index",
        "--generator",
    ]);
}

#[test]
fn an_unknown_flag_and_flags_that_exclude_each_other_name_the_flag() {
    for (words, says) in [
        (&["train", "--stepz", "3"][..], "--stepz"),
        (&["eval", "--run", "r", "--index", "i", "--generator", "g", "--questions", "q"], "--run"),
        (&["index", "build", "--corpus", "c"], "--encoder"),
        (&["train", "--train-passages", "perhaps"], "perhaps"),
    ] {
        let ran = ragtune(words).run();
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert!(ran.stderr.contains(says) && ran.stderr.contains("--help"), "{ran:#?}");
    }
}

#[test]
fn an_unknown_key_or_a_wrong_value_in_a_settings_file() {
    let folder = folder();
    let file = folder.path().join("settings.toml");
    let refused = |text: &str, says: &[&str]| {
        std::fs::write(&file, text).unwrap();
        train_is_refused("joint", &["--config", file.to_str().unwrap()], says);
    };
    refused("stepz = 3\n", &["`stepz`", "`steps`"]);
    refused("steps = \"three\"\n", &["three"]);
    refused("steps = \"th", &["settings.toml", "TOML"]);
    train_is_refused("joint", &["--config", "nowhere.toml"], &["nowhere.toml"]);
    ragtune(&["train", "--strategy", "joint"]).run().refused(&["`index`"]);
}

#[test]
fn graph_settings_out_of_range_are_refused_before_anything_is_embedded() {
    let folder = folder();
    let out = folder.path().join("index");
    for (flag, value) in [("--links", "3"), ("--links", "129"), ("--ef-construction", "0")] {
        build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &out).with(flag, value).run().refused(&[flag, value]);
        assert!(!out.exists());
    }
    build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &out).with("--device", "tpu").run().refused(&["`tpu`"]);
}

/// Every command that loads a model says what a device needs that it was not built for.
#[test]
fn devices_that_were_not_built_in_are_refused_with_what_to_build() {
    for (device, built) in
        [("cuda", cfg!(feature = "cuda")), ("cuda:1", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))]
    {
        if built {
            continue;
        }
        let feature = device.split(':').next().unwrap();
        let (name, hint) = (format!("`{device}`"), format!("cargo build --release --features {feature}"));
        let expected = [name.as_str(), hint.as_str()];
        train_is_refused("joint", &["--device", device], &expected);
        let (folder, index) = (folder(), base_index());
        let out = folder.path().join("index");
        build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &out)
            .with("--device", device)
            .run()
            .refused(&expected);
        assert!(!out.exists());
        ragtune(&["index", "search", "--query", "x", "--device", device])
            .with("--index", index)
            .run()
            .refused(&expected);
        ragtune(&["embed", "--role", "question", "--device", device])
            .with("--encoder", encoder())
            .with("--file", fixture("tiny/dev.jsonl"))
            .run()
            .refused(&expected);
        ragtune(&["eval", "--device", device])
            .with("--index", index)
            .with("--generator", small_generator())
            .with("--questions", fixture("tiny/dev.jsonl"))
            .run()
            .refused(&expected);
    }
}

#[test]
fn folders_that_are_not_what_they_are_taken_for() {
    let folder = folder();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    ragtune(&["train"]).with("--resume", &empty).run().refused(&["not a run folder"]);
    ragtune(&["compare"]).and(&[empty.to_str().unwrap()]).run().refused(&["is no run"]);
    ragtune(&["eval"])
        .with("--run", &empty)
        .with("--questions", fixture("tiny/dev.jsonl"))
        .run()
        .refused(&["not a run folder"]);
    for command in [&["index", "search", "--query", "x"][..], &["index", "stats"], &["index", "check"]] {
        ragtune(command).with("--index", &empty).run().refused(&["is no index", "ragtune index build"]);
    }
    train("joint", &empty, &folder.path().join("run")).run().refused(&["is no index"]);
    assert!(!folder.path().join("run").exists());
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "nothing was put there");
}

#[test]
fn types_of_weights_that_do_not_exist_or_cannot_train_are_refused() {
    train_is_refused("generator", &["--generator-dtype", "q4_0"], &["freezes", "--lora-rank"]);
    train_is_refused("generator", &["--generator-dtype", "int3", "--lora-rank", "4"], &["`int3`", "q4_0"]);
}

/// What the command line itself is refused for has a hint too: the help page that lists what is allowed there.
#[test]
fn unknown_flags_and_commands_name_the_help_page() {
    ragtune(&["train", "--stepz", "3"]).run().refused(&["--stepz", "hint: `ragtune train --help`"]);
    ragtune(&["index", "build", "--links", "many"]).run().refused(&["many", "hint: `ragtune index build --help`"]);
    ragtune(&["fly"]).run().refused(&["fly", "hint: `ragtune --help`"]);
    ragtune(&["eval", "--index", "x", "--generator", "y", "--questions", "z", "--max-answer-tokens", "0"])
        .run()
        .refused(&["`--max-answer-tokens 0`", "at least 1"]);
}
