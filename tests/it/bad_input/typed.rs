//! What was typed and cannot be meant: refused before any work, named, with what to type instead.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::*;

/// A run folder that is never made, another one for every command: what is refused late made its own for a moment.
fn never() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    shared().join(format!("never-{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

fn typed(words: &[&str]) -> Ragtune {
    train("joint", base_index(), &never()).and(words)
}

#[test]
fn an_index_is_not_built_into_a_folder_of_something_else() {
    let folder = folder();
    let out = folder.path().join("thesis");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("chapter.tex"), "work of years").unwrap();
    build(&fixture("tiny/corpus.jsonl"), &encoder(), &out).refused(&["chapter.tex", "neither an index nor"]);
    assert_eq!(files(&out).len(), 1, "nothing was put there");
    build(&fixture("tiny/corpus.jsonl"), &encoder(), &out.join("chapter.tex")).refused(&["is a file"]);
    // An empty folder will do, and a build that is refused leaves no folder.
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    build(&fixture("tiny/corpus.jsonl"), &encoder(), &empty).done();
    let bad = folder.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"id\": \"a\", \"text\": \"x\"}\n{\"id\": \"a\", \"text\": \"y\"}\n").unwrap();
    let refused = folder.path().join("refused");
    build(&bad, &encoder(), &refused).refused(&["`a`"]);
    assert!(!refused.exists());
}

#[test]
fn a_dry_run_refuses_what_the_run_would_refuse() {
    let folder = folder();
    let (file, done) = (folder.path().join("file"), folder.path().join("done"));
    std::fs::write(&file, "").unwrap();
    std::fs::create_dir(&done).unwrap();
    std::fs::write(done.join("config.toml"), "").unwrap();
    for (out, says) in
        [(base_index(), "is an index"), (&file, "is a file"), (&file.join("below"), "is a file"), (&done, "not empty")]
    {
        for more in [&["--dry-run"][..], &["--steps", "1"]] {
            train("joint", base_index(), out).and(more).run().refused(&[says, "--out"]);
        }
    }
    // So much memory no machine has: what is printed are the settings, and the refusal is one.
    let ran = ragtune(&["train", "--strategy", "joint", "--dry-run"])
        .with("--out", never())
        .and(&["--batch-tokens", "2000000000", "--batch-size", "1000000"])
        .with("--index", base_index())
        .with("--questions", fixture("tiny/train.jsonl"))
        .with("--eval-questions", fixture("tiny/dev.jsonl"))
        .with("--generator", small_generator())
        .run();
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert!(ran.stdout.contains("# training would not begin"), "{ran:#?}");
    assert!(
        ran.stderr.starts_with("error: training would take") && ran.stderr.contains("hint: most of it"),
        "{ran:#?}"
    );
    let ran = typed(&["--dry-run", "--steps", "1"]).run().done();
    assert!(ran.stdout.contains("# 1 stage, 1 optimiser steps each"), "{ran:#?}");
}

#[test]
fn an_adapter_is_not_larger_than_what_it_adapts() {
    typed(&["--lora-rank", "100000", "--dry-run"]).run().refused(&["--lora-rank 100000", "--lora-rank 32"]);
    typed(&["--lora-rank", "33"]).run().refused(&["--lora-rank 33", "--lora-rank 32"]);
    typed(&["--lora-rank", "32", "--dry-run"]).run().done();
    ragtune(&["inspect", "--lora-rank", "100000"])
        .and(&[small_generator().to_str().unwrap()])
        .run()
        .refused(&["--lora-rank 32"]);
}

#[test]
fn numbers_out_of_range() {
    let evaluate = |words: &[&str]| {
        ragtune(&["eval"])
            .with("--index", base_index())
            .with("--generator", small_generator())
            .with("--questions", fixture("tiny/dev.jsonl"))
            .and(words)
            .run()
    };
    evaluate(&["--temperature", "NaN"]).refused(&["`--temperature NaN`"]);
    evaluate(&["--temperature", "-1"]).refused(&["`--temperature -1`"]);
    evaluate(&["--ef", "0"]).refused(&["`--ef 0`"]);
    evaluate(&["--max-prompt-tokens", "0"]).refused(&["`--max-prompt-tokens 0`"]);
    ragtune(&["index", "search", "--query", "x", "--ef", "0"]).with("--index", base_index()).run().refused(&["--ef 0"]);
    let folder = folder();
    build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &folder.path().join("index"))
        .and(&["--batch-tokens", "0"])
        .run()
        .refused(&["`--batch-tokens 0`"]);
    ragtune(&["compare", "run", "--resamples", "0"]).run().refused(&["`--resamples 0`"]);
    typed(&["--lr-generator", "-1"]).run().refused(&["`--lr-generator -1`", "positive"]);
    typed(&["--lr-generator", "NaN"]).run().refused(&["`--lr-generator NaN`"]);
    typed(&["--beams", "-1"]).run().refused(&["-1", "hint: `--beams` takes a whole number that is not negative"]);
    typed(&["--steps", "1e3"]).run().refused(&["1e3", "`--steps 1000`"]);
}

#[test]
fn a_wrong_value_is_said_with_its_flag_and_the_nearest_name() {
    typed(&["--refresh", "ful"]).run().refused(&["`--refresh` is `ful`", "did you mean `--refresh full`?"]);
    typed(&["--objective", "rag_token"]).run().refused(&["--objective", "`rag_token`", "`--objective rag-token`?"]);
    let folder = folder();
    let file = folder.path().join("settings.toml");
    for (text, says) in [
        ("lr-generator = nan", &["settings.toml", "`lr-generator = NaN`"][..]),
        ("lr-generator = \"1e-4\"", &["lr-generator = \"1e-4\"", "without quotes"]),
        ("steps = 1.5", &["`steps = 1.5`", "whole number"]),
        ("lr-genrator = 1e-4", &["`lr-genrator`", "did you mean `lr-generator`?"]),
        ("no-setting-of-ours = 1", &["`no-setting-of-ours`", "--help"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let ran = typed(&["--config", file.to_str().unwrap()]).run().refused(says);
        assert!(!ran.stderr.contains("only-stages"), "{ran:#?}");
    }
}

#[test]
fn what_was_typed_and_has_no_effect() {
    for (words, says) in [
        (
            &["--train-passages", "false", "--refresh-every", "2"][..],
            &["`--refresh-every 2`", "--train-passages true"][..],
        ),
        (&["--lora-alpha", "8"], &["--lora-alpha", "--lora-rank"]),
        (&["--dro", "samples=2"], &["`--dro`", "--strategy dro"]),
        (&["--selection-questions", "nofile"], &["--selection-questions nofile", "--early-stop"]),
        (
            &["--train-passages", "true", "--refresh-schedule", "600-900:100", "--steps", "500"],
            &["600-900:100", "500 steps"],
        ),
    ] {
        typed(words).run().refused(says);
    }
    // In a file for several runs it may stand.
    let folder = folder();
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, "refresh-every = 2\nlora-alpha = 8.0\n[dro]\nsamples = 2\n").unwrap();
    typed(&["--steps", "1", "--dry-run", "--config", file.to_str().unwrap()]).run().done();
    let ran = typed(&["--warmup", "1000", "--steps", "500", "--lr-encoder", "20", "--dry-run"]).run().done();
    for part in ["warning: `--warmup 1000`", "50 % of its peak", "warning: `--lr-encoder 20`"] {
        assert!(ran.stderr.contains(part), "{part}: {ran:#?}");
    }
}

#[test]
fn settings_of_a_row_that_have_no_effect_and_rows_that_are_none() {
    let folder = folder();
    let file = folder.path().join("compare.toml");
    let compare = |shared: &str, rows: &str| {
        let text = format!(
            "out = {:?}\nseeds = [0]\n[settings]\nindex = {:?}\nquestions = {:?}\neval-questions = {:?}\ngenerator = {:?}\n\
             steps = 1\nbatch-size = 2\ntop-k = 2\neval-limit = 2\nmax-answer-tokens = 8\n{shared}\n{rows}",
            folder.path().join("out"),
            base_index(),
            fixture("tiny/train.jsonl"),
            fixture("tiny/dev.jsonl"),
            small_generator(),
        );
        std::fs::write(&file, text).unwrap();
        ragtune(&["compare", "--resamples", "50"]).with("--config", &file).run()
    };
    let selection = folder.path().join("selection.jsonl");
    std::fs::write(&selection, "{\"id\": \"s\", \"question\": \"who\", \"answers\": [\"x\"]}\n").unwrap();
    let row = "[[strategies]]\nstrategy = \"generator\"\n";
    compare("", &format!("{row}refresh-every = 2\n")).refused(&["row `generator`", "--refresh-every 2"]);
    compare("", &format!("{row}selection-questions = {selection:?}\n"))
        .refused(&["row `generator`", "selection.jsonl"]);
    compare("", &format!("{row}[strategies.dro]\nsamples = 2\n")).refused(&["row `generator`", "--dro"]);
    compare("", "[strategies]\nstrategy = \"joint\"\n").refused(&["[[strategies]], with two brackets"]);
    // What all rows share is for those that look at it.
    let shared = format!("refresh-every = 2\nselection-questions = {selection:?}\n[settings.dro]\nsamples = 2");
    let ran = compare(&shared, row).done();
    assert!(ran.stderr.contains("decides nothing: there is no [search]"), "{ran:#?}");
}

#[test]
fn a_corpus_in_place_of_questions() {
    ragtune(&["eval"])
        .with("--index", base_index())
        .with("--generator", small_generator())
        .with("--questions", fixture("tiny/corpus.jsonl"))
        .run()
        .refused(&["corpus.jsonl:1", "this looks like a corpus", "--corpus"]);
    ragtune(&["train", "--strategy", "joint"])
        .with("--out", never())
        .with("--index", base_index())
        .with("--generator", small_generator())
        .with("--questions", fixture("tiny/train.jsonl"))
        .with("--eval-questions", fixture("tiny/corpus.jsonl"))
        .run()
        .refused(&["this looks like a corpus"]);
    // Without titles it cannot be told from questions; that nothing is scored is said.
    let folder = folder();
    let bare = folder.path().join("bare.jsonl");
    std::fs::write(&bare, "{\"id\": \"a\", \"text\": \"Rain falls.\"}\n").unwrap();
    let ran = ragtune(&["eval", "--max-answer-tokens", "2"])
        .with("--index", base_index())
        .with("--generator", small_generator())
        .with("--questions", &bare)
        .run()
        .done();
    assert!(ran.stderr.contains("warning: no question of") && ran.stderr.contains("is it a corpus?"), "{ran:#?}");
}

#[test]
fn paths_that_cannot_be_meant() {
    let folder = folder();
    ragtune(&["index", "search", "--query", "x", "--ids", "nofile"])
        .with("--index", base_index())
        .run()
        .refused(&["`nofile`", "one id a line"]);
    let page = folder.path().join("nodir/page.html");
    let ran = ragtune(&["compare", "run"]).with("--html", &page).run().refused(&["page.html", "mkdir -p"]);
    assert!(!ran.stderr.contains(".writing-"), "{ran:#?}");
}

/// A folder that cannot be made is told before any model is loaded.
#[cfg(target_os = "linux")]
#[test]
fn folders_that_cannot_be_made() {
    let out = Path::new("/proc/none/out");
    build(&fixture("tiny/corpus.jsonl"), &encoder(), out).refused(&["/proc/none/out", "cannot be made"]);
    for more in [&["--dry-run"][..], &[]] {
        train("joint", base_index(), out).and(more).run().refused(&["/proc/none/out", "cannot be made"]);
    }
}
