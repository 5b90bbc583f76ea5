//! `--vectors`: the same hits however vectors are held; stated, kept, refused where it cannot be meant.

use serde_json::Value;

use crate::support::*;

fn found(index: &std::path::Path, more: &[&str]) -> Ran {
    ragtune(&["index", "search", "--json", "--top-k", "7", "--query", "who sails at night"])
        .with("--index", index)
        .and(more)
        .run()
        .done()
}

#[test]
fn the_same_passages_with_the_same_scores_are_found_however_vectors_are_held() {
    let folder = folder();
    let index = index_copy(folder.path());
    let stats = || ragtune(&["index", "stats", "--json"]).with("--index", &index).run().json();
    assert_eq!(stats()["derived_vectors"], serde_json::json!([]));
    let expected = found(&index, &[]).stdout;
    for (count, held) in ["memory", "mapped", "f16", "int8"].into_iter().enumerate() {
        for _ in 0..2 {
            let ran = found(&index, &["--vectors", held]);
            assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (expected.as_str(), ""), "{held}");
        }
        assert_eq!(stats()["derived_vectors"].as_array().unwrap().len(), count);
    }
    let stats = stats();
    let int8 = &stats["derived_vectors"][2];
    assert_eq!(
        (&int8["file"], &int8["vectors"], &int8["probes"]),
        (&"vectors-int8.bin".into(), &"int8".into(), &60.into())
    );
    assert!(int8["recall_at_10"].as_f64().unwrap() > 0.95, "{int8:#}");
    assert_eq!(stats["derived_vectors"][0].get("recall_at_10"), None::<&Value>);
    let bytes: u64 =
        stats["derived_vectors"].as_array().unwrap().iter().map(|one| one["bytes"].as_u64().unwrap()).sum();
    assert_eq!(stats["bytes"]["derived"], bytes);
    let said = |beam: &[&str]| {
        let search = ragtune(&["index", "search", "--query", "who", "--vectors", "int8"]).and(beam);
        search.with("--index", &index).run().done().stderr
    };
    let walked = said(&["--top-k", "2", "--ef", "2"]);
    assert!(walked.starts_with("walking by int8, recall@10 "), "{walked}");
    let compared = said(&[]);
    assert!(!compared.contains("walking"), "among so few passages each is compared: {compared}");
    let text = ragtune(&["index", "stats"]).with("--index", &index).run().done().stdout;
    assert!(text.contains("as int8") && text.contains("as mapped"), "{text}");
    assert!(is_clean(&index));
    // Damaged, they are made anew; `check` names them before.
    let sidecar = std::fs::read_to_string(index.join("generations/CURRENT")).unwrap();
    let file = index.join("generations").join(sidecar.trim()).join("vectors-int8.bin");
    std::fs::write(&file, "rtvects\n").unwrap();
    assert!(!is_clean(&index));
    assert_eq!(found(&index, &["--vectors", "int8"]).stdout, expected);
    assert!(is_clean(&index));
}

#[test]
fn an_evaluation_reads_the_same_passages_however_vectors_are_held() {
    let folder = folder();
    let index = index_copy(folder.path());
    let scores = |held: &str| {
        let file = folder.path().join(held);
        ragtune(&["eval", "--limit", "6", "--top-k", "3", "--vectors", held])
            .with("--index", &index)
            .with("--generator", small_generator())
            .with("--questions", fixture("tiny/dev.jsonl"))
            .with("--scores", &file)
            .run()
            .done();
        std::fs::read_to_string(file).unwrap()
    };
    let expected = scores("memory");
    assert_eq!(expected.lines().count(), 6);
    for held in ["mapped", "f16", "int8"] {
        assert_eq!(scores(held), expected, "{held}");
    }
}

#[test]
fn a_build_derives_files_where_asked_and_finds_them_again() {
    let folder = folder();
    let out = folder.path().join("index");
    let build =
        || build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &out).and(&["--vectors", "int8"]).run().done();
    let first = build();
    assert!(first.stderr.contains("vectors as int8") && first.stderr.contains("recall@10"), "{first:#?}");
    // The lock says who had it.
    let content = || {
        let all = files(&out).into_iter().filter(|file| !file.ends_with("LOCK"));
        all.map(|file| (digest(&out.join(&file)), file)).collect::<Vec<_>>()
    };
    let before = content();
    build();
    assert_eq!(content(), before);
    assert!(files(&out).iter().any(|file| file.ends_with("vectors-int8.bin")));
}

#[test]
fn a_damaged_file_is_derived_anew_and_that_is_said() {
    let folder = folder();
    let index = index_copy(folder.path());
    let expected = found(&index, &["--vectors", "int8"]).stdout;
    let sidecar = std::fs::read_dir(index.join("generations")).unwrap().flatten().find(|one| one.path().is_dir());
    let file = sidecar.unwrap().path().join("vectors-int8.bin");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let ran = found(&index, &["--vectors", "int8"]);
    assert_eq!(ran.stdout, expected);
    assert!(ran.stderr.contains("`vectors-int8.bin`: its checksum") && ran.stderr.contains("anew"), "{}", ran.stderr);
    assert_eq!(found(&index, &["--vectors", "int8"]).stderr, "");
}

#[test]
fn a_writer_elsewhere_keeps_them_in_memory_and_that_is_said() {
    let folder = folder();
    let index = index_copy(folder.path());
    let expected = found(&index, &[]).stdout;
    let corpus = ragtune_index::Corpus::open(&index).unwrap();
    let _lock = corpus.lock("another command").unwrap();
    let ran = found(&index, &["--vectors", "f16"]);
    assert_eq!(ran.stdout, expected);
    assert!(ran.stderr.starts_with("warning: ") && ran.stderr.contains("`another command`"), "{ran:#?}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let index = base_index();
    let search = |more: &[&str]| ragtune(&["index", "search", "--query", "x"]).with("--index", index).and(more).run();
    search(&["--vectors", "int4"]).refused(&["`int4`", "memory, mapped, f16, int8"]);
    search(&["--vectors", "int8", "--exact"]).refused(&["`--vectors int8`", "`--exact`", "`--vectors mapped`"]);
    search(&["--vectors", "f16", "--retriever", "bm25"]).refused(&["`--vectors f16`", "bm25"]);
    let folder = folder();
    let out = folder.path().join("index");
    build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &out).and(&["--vectors", "f8"]).run().refused(&["`f8`"]);
    assert!(!out.exists(), "nothing was begun");
    let mapped = search(&["--vectors", "mapped", "--exact", "--json"]).done();
    assert_eq!(mapped.stdout, search(&["--exact", "--json"]).done().stdout);
}
