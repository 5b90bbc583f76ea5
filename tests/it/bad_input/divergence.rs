//! Training that leaves the finite numbers: it stops, says at which step and in which tensor, and what was good stays.

use std::path::{Path, PathBuf};

use crate::support::*;

/// The small generator with all numbers of some tensors changed.
fn poisoned(folder: &Path, change: impl Fn(&str, &mut f32)) -> PathBuf {
    let to = folder.join("poisoned");
    copy(&small_generator(), &to);
    edit_tensors(&to.join("model.safetensors"), |name, tensor| {
        tensor.values.iter_mut().for_each(|value| change(name, value));
    });
    to
}

fn checkpoints(out: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(out.join("checkpoints"))
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// Every number in every checkpoint is finite: what is kept can be gone on with.
fn all_finite(out: &Path) {
    for name in checkpoints(out) {
        let folder = out.join("checkpoints").join(name);
        for file in files(&folder).iter().filter(|file| file.extension().is_some_and(|end| end == "safetensors")) {
            let found = std::cell::Cell::new(0);
            let copied = folder.join(file).with_extension("copy");
            std::fs::copy(folder.join(file), &copied).unwrap();
            edit_tensors(&copied, |name, tensor| {
                assert!(tensor.values.iter().all(|value| value.is_finite()), "{}: {name}", file.display());
                found.set(found.get() + 1);
            });
            std::fs::remove_file(copied).unwrap();
            assert!(found.get() > 0);
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_names_step_tensor_and_questions() {
    let folder = folder();
    let out = folder.path().join("run");
    // Finite, so that it loads, and too large to compute with.
    let generator = poisoned(folder.path(), |name, value| match name {
        "model.norm.weight" => *value = 1e25,
        "lm_head.weight" => *value *= 1e20,
        _ => {}
    });
    let ran = train_with(&generator, "generator", base_index(), &out).and(&["--steps", "3"]).run().refused(&[
        "training stopped",
        "the loss at step 1 is",
        "every weight is finite",
        "1e25 in `model.norm.weight` of the generator",
        "--lr-generator",
        "no checkpoint was written yet",
    ]);
    assert!(ran.stderr.contains("questions `"), "{ran:#?}");
    let record = json(&out.join("record.json"));
    assert_eq!((&record["status"], &record["steps_done"]), (&"diverged".into(), &0.into()));
    // A number that is none is not even loaded.
    let folder = crate::support::folder();
    let nan = poisoned(folder.path(), |name, value| {
        if name == "model.layers.0.mlp.up_proj.weight" {
            *value = f32::NAN;
        }
    });
    let out = folder.path().join("run");
    train_with(&nan, "generator", base_index(), &out).run().refused(&["model.layers.0.mlp.up_proj.weight`", "NaN"]);
    assert!(!out.exists());
}

/// A huge output layer behind a tiny norm: the logits and the loss are as usual, the norm's gradient is beyond all numbers.
#[test]
fn a_gradient_that_is_not_finite_names_step_and_tensor() {
    let folder = folder();
    let out = folder.path().join("run");
    let generator = poisoned(folder.path(), |name, value| match name {
        "model.norm.weight" => *value = 1e-38,
        // In two steps: the factor itself is no f32.
        "lm_head.weight" => *value = *value * 1e20 * 1e19,
        _ => {}
    });
    train_with(&generator, "generator", base_index(), &out).and(&["--steps", "3"]).run().refused(&[
        "training stopped at step 1, generator",
        "the gradient of `model.norm.weight` holds a NaN or an infinity",
        "--lr-generator",
    ]);
    assert_eq!(json(&out.join("record.json"))["steps_done"], 0);
}

#[test]
fn an_absurd_learning_rate_is_stopped_at_the_step_that_overflows() {
    let folder = folder();
    // The very first update leaves the numbers: nothing was good but the beginning.
    let out = folder.path().join("first");
    train("generator", base_index(), &out)
        .and(&["--steps", "4", "--checkpoint-every", "1", "--lr-generator", "1e39"])
        .run()
        .warned(&["`--lr-generator 1000"])
        .refused(&["training stopped at step 1, generator", "the update of `", "1e39", "--lr-generator", "--out"]);
    assert!(checkpoints(&out).is_empty());
    // The first update is absurd and finite; what follows is not.
    let out = folder.path().join("second");
    let ran = train("joint", base_index(), &out)
        .and(&["--steps", "4", "--checkpoint-every", "1", "--lr-generator", "1e15", "--schedule", "constant"])
        .run()
        .warned(&["`--lr-generator 1000000000000000`"])
        .refused(&["training stopped", "step 2", "step-00-00000001", "is kept"]);
    assert!(ran.stderr.contains("` of the generator") || ran.stderr.contains("the gradient of `"), "{ran:#?}");
    assert_eq!(checkpoints(&out), ["step-00-00000001"]);
    all_finite(&out);
    assert_eq!(lines(&out.join("metrics.jsonl")).len(), 1);
    let record = json(&out.join("record.json"));
    assert_eq!((&record["status"], &record["steps_done"]), (&"diverged".into(), &1.into()));
    // An encoder likewise.
    let out = folder.path().join("encoder");
    train("embedder", base_index(), &out)
        .and(&["--steps", "3", "--checkpoint-every", "1", "--lr-encoder", "1e39"])
        .run()
        .warned(&["`--lr-encoder 1000"])
        .refused(&["training stopped at step 1, encoder", "the update of `", "--lr-encoder"]);
    assert!(checkpoints(&out).is_empty());
}
