//! `ragtune export`: the folders it writes are what the run trained, and load again.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::*;

/// Both models trained whole, and both with an adapter on the generator: made once.
fn runs() -> &'static [PathBuf; 2] {
    static RUNS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    RUNS.get_or_init(|| {
        let dir = shared().join("export");
        std::fs::create_dir_all(&dir).unwrap();
        let run = |name: &str, words: &[&str]| {
            let out = dir.join(name);
            train("joint", base_index(), &out).and(&["--steps", "2", "--lr-encoder", "1e-3"]).and(words).run().done();
            out
        };
        [
            run("whole", &["--lr-generator", "1e-2"]),
            run("lora", &["--lr-generator", "1e-1", "--lora-rank", "4", "--lora-targets", "q_proj,v_proj,down_proj"]),
        ]
    })
}

fn export(run: &Path, out: &Path) -> Ragtune {
    ragtune(&["export"]).with("--run", run).with("--out", out)
}

/// Answers of the tiny questions, read by this generator.
fn answers(generator: &Path, adapter: Option<&Path>, encoder: &Path, folder: &Path) -> Vec<Value> {
    let scores = folder.join("scores.jsonl");
    let mut command = ragtune(&["eval", "--limit", "6", "--top-k", "2", "--max-answer-tokens", "8"])
        .with("--index", base_index())
        .with("--generator", generator)
        .with("--encoder", encoder)
        .with("--questions", fixture("tiny/dev.jsonl"))
        .with("--scores", &scores);
    if let Some(adapter) = adapter {
        command = command.with("--adapter", adapter);
    }
    command.run().done();
    lines(&scores)
}

fn dtypes(file: &Path) -> Vec<String> {
    let bytes = std::fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let entries = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let mut all: Vec<String> = entries.map(|(_, entry)| entry["dtype"].as_str().unwrap().to_owned()).collect();
    all.dedup();
    all
}

#[test]
fn a_run_is_exported_whole_and_answers_as_it_did() {
    let folder = folder();
    let [whole, _] = runs();
    let out = folder.path().join("export");
    let said = export(whole, &out).and(&["--json"]).run().json();
    assert_eq!((&said["dtype"], &said["merged"]), (&"f32".into(), &false.into()));
    for part in ["encoder", "generator"] {
        let (ours, theirs) = (out.join(part).join("model.safetensors"), whole.join(part).join("model.safetensors"));
        assert_eq!(digest(&ours), digest(&theirs), "{part}");
        assert!(out.join(part).join("README.md").is_file(), "{part} has a card");
    }
    assert!(out.join("generator/prompt.json").is_file() && out.join("encoder/1_Pooling/config.json").is_file());
    let pooling = json(&out.join("encoder/1_Pooling/config.json"));
    assert_eq!(pooling["pooling_mode_mean_tokens"], true, "the keys older versions read");
    // The encoder's question side alone was trained: the export still knows whose vectors it searches.
    let expected = answers(&whole.join("generator"), None, &whole.join("encoder"), folder.path());
    assert_eq!(answers(&out.join("generator"), None, &out.join("encoder"), folder.path()), expected);

    // Again over the old export: replaced whole.
    std::fs::write(out.join("stale"), "old").unwrap();
    export(whole, &out).run().done();
    assert!(!out.join("stale").exists());
    // One part: the folder is the model.
    let encoder = folder.path().join("encoder");
    export(whole, &encoder).and(&["--part", "encoder"]).run().done();
    assert_eq!(files(&encoder), files(&out.join("encoder")));
}

#[test]
fn half_precision_halves_the_files_and_loads_again() {
    let folder = folder();
    let [whole, lora] = runs();
    let large = std::fs::metadata(whole.join("generator/model.safetensors")).unwrap().len();
    for (dtype, stored, torch) in [("f16", "F16", "float16"), ("bf16", "BF16", "bfloat16")] {
        let out = folder.path().join(dtype);
        export(whole, &out).with("--dtype", dtype).run().done();
        for part in ["encoder", "generator"] {
            assert_eq!(dtypes(&out.join(part).join("model.safetensors")), [stored], "{part}");
            assert_eq!(json(&out.join(part).join("config.json"))["torch_dtype"], torch, "{part}");
        }
        let small = std::fs::metadata(out.join("generator/model.safetensors")).unwrap().len();
        assert!((small as f64 / large as f64 - 0.5).abs() < 0.01, "{small} of {large} bytes");
        let inspected = ragtune(&["inspect", "--json"]).and(&[out.join("generator").to_str().unwrap()]).run().json();
        assert_eq!(inspected["stored"][dtype], inspected["parameters"]["total"]);
        ragtune(&["index", "build", "--json"])
            .with("--corpus", fixture("tiny/corpus.jsonl"))
            .with("--encoder", out.join("encoder"))
            .with("--out", folder.path().join(format!("index-{dtype}")))
            .run()
            .done();
        let adapter = folder.path().join(format!("adapter-{dtype}"));
        export(lora, &adapter).with("--dtype", dtype).and(&["--part", "generator"]).run().done();
        assert_eq!(dtypes(&adapter.join("adapter_model.safetensors")), [stored]);
        answers(&small_generator(), Some(&adapter), &encoder(), folder.path());
    }
}

#[test]
fn a_merged_adapter_answers_as_base_and_adapter_do() {
    let folder = folder();
    let [_, lora] = runs();
    let (adapter, merged) = (folder.path().join("adapter"), folder.path().join("merged"));
    export(lora, &adapter).and(&["--part", "generator"]).run().done();
    assert!(adapter.join("adapter_config.json").is_file() && adapter.join("README.md").is_file());
    export(lora, &merged).and(&["--part", "generator", "--merge"]).run().done();
    assert!(merged.join("prompt.json").is_file() && !merged.join("adapter_config.json").exists());
    let encoder = lora.join("encoder");
    let expected = answers(&small_generator(), Some(&lora.join("adapter")), &encoder, folder.path());
    assert_eq!(answers(&small_generator(), Some(&adapter), &encoder, folder.path()), expected);
    assert_eq!(answers(&merged, None, &encoder, folder.path()), expected);
    let base = answers(&small_generator(), None, &encoder, folder.path());
    assert!(base.iter().zip(&expected).any(|(one, other)| one["prediction"] != other["prediction"]), "it matters");
    // With both parts named by nothing: encoder and adapter side by side.
    let both = folder.path().join("both");
    export(lora, &both).run().done();
    assert!(both.join("encoder/modules.json").is_file() && both.join("adapter/adapter_config.json").is_file());
}

#[test]
fn what_cannot_be_exported_is_refused_and_nothing_is_overwritten() {
    let folder = folder();
    let [whole, lora] = runs();
    let out = folder.path().join("out");
    let refused = |run: &Path, words: &[&str], says: &[&str]| {
        export(run, &out).and(words).run().refused(says);
        assert!(!out.exists(), "{words:?}");
    };
    refused(whole, &["--merge"], &["--merge"]);
    refused(lora, &["--merge", "--part", "encoder"], &["--merge"]);
    refused(whole, &["--part", "index"], &["`index`", "encoder"]);
    refused(whole, &["--dtype", "f64"], &["`f64`", "bf16"]);
    refused(Path::new("nowhere"), &[], &["not a run folder"]);
    let frozen = folder.path().join("frozen");
    train("frozen", base_index(), &frozen).run().done();
    refused(&frozen, &[], &["trained nothing"]);
    refused(&frozen, &["--part", "encoder"], &["trained no encoder"]);

    let unfinished = folder.path().join("unfinished");
    let mut running = train("generator", base_index(), &unfinished).and(&["--steps", "400"]).start();
    assert!(running.until(|| unfinished.join("metrics.jsonl").exists()));
    running.terminate();
    running.end();
    refused(&unfinished, &[], &["interrupted", "ragtune train --resume"]);

    // Somebody's folder, the run itself, and what it was trained from.
    let foreign = folder.path().join("thesis");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("chapter.tex"), "work of years").unwrap();
    export(whole, &foreign).run().refused(&["is not empty", "export.json"]);
    export(whole, &foreign).and(&["--part", "encoder"]).run().refused(&["is not empty", "modules.json"]);
    assert_eq!(files(&foreign), [PathBuf::from("chapter.tex")]);
    let before: Vec<String> = files(whole).iter().map(|file| digest(&whole.join(file))).collect();
    for target in [whole.clone(), whole.join("encoder"), small_generator()] {
        export(whole, &target).and(&["--part", "encoder"]).run().refused(&["would write over"]);
    }
    assert_eq!(files(whole).iter().map(|file| digest(&whole.join(file))).collect::<Vec<_>>(), before);

    // A base that is not what it was.
    let generator = folder.path().join("generator");
    copy(&small_generator(), &generator);
    let run = folder.path().join("run");
    train_with(&generator, "generator", base_index(), &run).and(&["--steps", "1", "--lora-rank", "2"]).run().done();
    edit_tensors(&generator.join("model.safetensors"), |name, tensor| {
        if name == "lm_head.weight" {
            tensor.values[0] += 1.0;
        }
    });
    refused(&run, &["--merge"], &["is not the generator", "put back"]);

    // A number that the type cannot hold.
    let large = folder.path().join("large");
    copy(whole, &large);
    edit_tensors(&large.join("generator/model.safetensors"), |name, tensor| {
        if name == "model.norm.weight" {
            tensor.values[1] = 1e6;
        }
    });
    refused(&large, &["--dtype", "f16"], &["`model.norm.weight`", "1000000", "bf16"]);
}

/// An adapter that was trained on rounded matrices is merged into those: the folder answers as the run does.
#[test]
fn an_adapter_on_a_quantised_generator_merges_into_what_it_was_trained_on() {
    let folder = folder();
    let run = folder.path().join("run");
    let words = ["--steps", "2", "--lr-generator", "1e-1", "--lora-rank", "4", "--generator-dtype", "q4_0"];
    train_with(&fixture("models/qa-llama"), "generator", base_index(), &run).and(&words).run().done();
    let merged = folder.path().join("merged");
    export(&run, &merged).and(&["--part", "generator", "--merge"]).run().done();
    let scores = |command: Ragtune| {
        let file = folder.path().join("scores.jsonl");
        command
            .with("--questions", fixture("tiny/dev.jsonl"))
            .with("--scores", &file)
            .and(&["--limit", "8"])
            .run()
            .done();
        let answers = lines(&file).into_iter().map(|line| line["prediction"].clone());
        answers.collect::<Vec<Value>>()
    };
    let of_run = scores(ragtune(&["eval"]).with("--run", &run));
    let of_folder = scores(
        ragtune(&["eval", "--top-k", "2", "--max-answer-tokens", "8"])
            .with("--index", base_index())
            .with("--generator", &merged),
    );
    assert_eq!(of_run, of_folder);
}
