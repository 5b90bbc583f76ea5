//! The other programs load what this one writes and give the same numbers, and the other way round: `tests/interop/run.sh`,
//! where Python with sentence-transformers, transformers and peft is there.

use std::path::Path;
use std::process::Command;

use crate::support::*;

#[test]
fn python_gives_the_same_numbers() {
    let python = std::env::var("RAGTUNE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let usable = Command::new(&python).args(["-c", "import sentence_transformers, peft"]).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "skipped: `{python}` cannot import sentence_transformers and peft; name one that can in RAGTUNE_PYTHON"
        );
        return;
    }
    let folder = folder();
    let output = Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/run.sh"))
        .env("RAGTUNE", env!("CARGO_BIN_EXE_ragtune"))
        .env("RAGTUNE_PYTHON", &python)
        .env("RAGTUNE_INTEROP", folder.path())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("interop: all equal") && !said.contains("skipped"), "{said}\n{errors}");
    eprintln!("{said}");
}

#[test]
fn pylance_reads_an_index_after_every_change() {
    let python = std::env::var("RAGTUNE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let usable = Command::new(&python).args(["-c", "import lance, numpy"]).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: `{python}` cannot import lance (package pylance) and numpy; name one in RAGTUNE_PYTHON");
        return;
    }
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let (first, more, index) = (path("first.jsonl"), path("more.jsonl"), path("index"));
    let all = lines(&fixture("tiny/corpus.jsonl"));
    first_lines(&fixture("tiny/corpus.jsonl"), 40, &first);
    std::fs::write(&more, all[40..].iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let embedded = path("vectors.jsonl");
    ragtune(&["embed", "--role", "passage"])
        .with("--encoder", encoder())
        .with("--file", fixture("tiny/corpus.jsonl"))
        .with("--out", &embedded)
        .run()
        .done();
    let vectors: serde_json::Map<String, serde_json::Value> = lines(&embedded)
        .into_iter()
        .map(|line| (line["id"].as_str().unwrap().to_owned(), line["vector"].clone()))
        .collect();
    let reads = |what: &str, generation: u32, passages: &[serde_json::Value]| {
        let expected = path("expected.json");
        let content = serde_json::json!({ "generation": generation, "passages": passages, "vectors": vectors });
        std::fs::write(&expected, content.to_string()).unwrap();
        let output = Command::new(&python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/lance_index.py"))
            .args([&index, &expected])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.contains("passages"), "{what}: {said}\n{errors}");
        eprint!("{what}: {said}");
    };
    let change = |words: &[&str]| ragtune(&[&["index"], words].concat()).with("--index", &index);

    build(&first, &encoder(), &index).done();
    reads("built", 1, &all[..40]);
    change(&["append"]).with("--corpus", &more).run().done();
    reads("appended", 1, &all);
    let gone = [3usize, 41, 42];
    let mut delete = change(&["delete"]);
    for at in gone {
        delete = delete.with("--id", all[at]["id"].as_str().unwrap());
    }
    delete.run().done();
    let mut left = all.clone();
    for at in gone.iter().rev() {
        left.remove(*at);
    }
    reads("deleted", 1, &left);
    change(&["refresh"]).run().done();
    reads("refreshed", 2, &left);
    change(&["compact"]).run().done();
    reads("compacted", 2, &left);
    change(&["gc"]).run().done();
    reads("collected", 2, &left);
    change(&["rollback", "--generation", "1"]).run().done();
    // The build's own state is kept for strategies; it moved with the append and the deletion.
    reads("rolled back", 3, &left);
}
