//! `ragtune index`: append, delete, refresh, compact, gc, versions, rollback, and searching among some passages.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::*;

/// An index of the first 40 passages, and a file with the other 20.
fn start(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf, Vec<Value>) {
    let (first, more, index) = (folder.join("first.jsonl"), folder.join("more.jsonl"), folder.join("index"));
    let all = lines(&fixture("tiny/corpus.jsonl"));
    first_lines(&fixture("tiny/corpus.jsonl"), 40, &first);
    std::fs::write(&more, all[40..].iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    build(&first, &encoder(), &index).done();
    (index, more, all)
}

fn index(words: &[&str], index: &Path) -> Ragtune {
    ragtune(&[&["index"], words].concat()).with("--index", index)
}

/// Ids that a search for a passage's own title and text finds, best first.
fn found(at: &Path, passage: &Value, flags: &[&str]) -> Vec<String> {
    let text = format!("{} {}", passage["title"].as_str().unwrap(), passage["text"].as_str().unwrap());
    let hits = index(&["search", "--json", "--top-k", "3"], at).with("--query", text).and(flags).run().json();
    hits.as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_index_is_changed_by_commands_and_every_change_is_found() {
    let folder = folder();
    let (at, more, all) = start(folder.path());
    let id = |row: usize| all[row]["id"].as_str().unwrap();

    let appended = index(&["append", "--json"], &at).with("--corpus", &more).run().json();
    assert_eq!(
        (&appended["passages"], &appended["generation"], &appended["outside_graph"]),
        (&json!(20), &json!(1), &json!(20))
    );
    assert!(appended["embed_seconds"].as_f64().unwrap() > 0.0);
    for row in [0, 39, 40, 59] {
        assert_eq!(found(&at, &all[row], &[])[0], id(row));
    }
    let again = index(&["append"], &at).with("--corpus", &more).run();
    again.refused(&[id(40), "passage 1", "ragtune data check"]);
    let stats = index(&["stats", "--json"], &at).run().json();
    assert_eq!((&stats["passages"], &stats["outside_graph"], &stats["fragments"]), (&json!(60), &json!(20), &json!(2)));

    let gone = folder.path().join("gone.txt");
    std::fs::write(&gone, format!("{}\n\n {} \n", id(7), id(45))).unwrap();
    let deleted = index(&["delete", "--json"], &at).with("--ids", &gone).with("--id", id(8)).run().json();
    assert_eq!((&deleted["passages"], &deleted["left"]), (&json!(3), &json!(57)));
    for row in [7, 8, 45] {
        assert!(!found(&at, &all[row], &["--exact"]).contains(&id(row).to_owned()));
    }
    index(&["delete"], &at).with("--id", id(7)).and(&["--id", "nobody"]).run().refused(&[
        "2 of the 2",
        id(7),
        "nobody",
        "nothing was changed",
    ]);
    index(&["delete"], &at).run().refused(&["--id"]);

    let refreshed = index(&["refresh", "--json", "--reuse-graph", "0.01"], &at).run().json();
    assert_eq!(
        (&refreshed["generation"], &refreshed["passages"], &refreshed["embedded"]),
        (&json!(2), &json!(57), &json!(60))
    );
    assert_eq!(found(&at, &all[59], &[])[0], id(59), "the note of the encoder came along");

    let planned = index(&["gc", "--dry-run", "--json"], &at).run().json();
    assert_eq!(planned["dry_run"], true);
    let compacted = index(&["compact", "--json"], &at).run().json();
    assert_eq!(
        (&compacted["passages"], &compacted["dropped"], &compacted["fragments_after"]),
        (&json!(57), &json!(3), &json!(1))
    );
    let freed = index(&["gc", "--json"], &at).run().json();
    assert!(freed["bytes"].as_u64().unwrap() > 0 && !freed["files"].as_array().unwrap().is_empty(), "{freed:#}");
    let said = index(&["gc"], &at).run().done().stdout;
    assert!(said.contains("freed 0"), "{said}");
    assert_eq!(found(&at, &all[59], &[])[0], id(59));

    let versions = index(&["versions", "--json"], &at).run().json();
    let made: Vec<&str> = versions.as_array().unwrap().iter().map(|info| info["made_by"].as_str().unwrap()).collect();
    assert_eq!(made, ["delete", "compact"], "{versions:#}");
    let text = index(&["versions"], &at).run().done().stdout;
    assert!(text.contains("kept by base") && text.contains("<- current"), "{text}");
    let back = index(&["rollback", "--generation", "1", "--json"], &at).run().json();
    assert_eq!(back, json!({ "generation": 3, "passages": 57 }));
    index(&["rollback", "--generation", "3"], &at).run().refused(&["is the newest already", "ragtune index versions"]);
    index(&["rollback", "--generation", "9"], &at).run().refused(&["generation 9", "ragtune index versions"]);
    index(&["rollback", "--to-version", "999"], &at).run().refused(&["version 999"]);
    index(&["rollback"], &at).run().refused(&["--generation"]);
    assert_eq!(found(&at, &all[59], &[])[0], id(59));
    let clean = index(&["check"], &at).run().done().stdout;
    assert!(clean.contains("clean"), "{clean}");
}

#[test]
fn what_was_asked_for_stays_until_it_is_released() {
    let folder = folder();
    let at = index_copy(folder.path());
    let kept = || {
        let versions = index(&["versions", "--json"], &at).run().json();
        let of = |version: &Value| (version["generation"].as_u64().unwrap(), version["protected_by"].clone());
        versions.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let refresh = || index(&["refresh", "--precision", "bf16"], &at).run().done();
    refresh();
    assert_eq!(kept(), [(1, json!(["base"])), (2, json!(["base"]))], "of two encoders each has its generation");
    refresh();
    assert_eq!(kept(), [(1, json!(["base"])), (2, json!([])), (3, json!(["base"]))], "the newest of an encoder's");

    let versions = format!("ragtune index versions --index {}", at.display());
    index(&["release"], &at).run().refused(&["--generation"]);
    index(&["release", "--generation", "9"], &at).run().refused(&["generation 9", "1, 2, 3", &versions]);
    index(&["release", "--generation", "2"], &at).run().refused(&["nobody keeps generation 2", &versions]);
    index(&["release", "--owner", "run-x"], &at).run().refused(&["`run-x`", "`base` (generation 1)", &versions]);
    let released = index(&["release", "--generation", "1", "--json"], &at).run().json();
    assert_eq!(released, json!([{ "generation": 1, "owner": "base" }]));
    let said = index(&["release", "--owner", "base"], &at).run().done().stdout;
    assert!(said.contains("`base` no longer keeps generation 3") && said.contains("ragtune index gc"), "{said}");
    index(&["gc"], &at).run().done();
    assert_eq!(kept(), [(2, json!([])), (3, json!([]))], "the newest and the one before");
    for (flag, value, says) in [
        ("--reuse-graph", "5", "0 to 1"),
        ("--reuse-graph", "NaN", "0 to 1"),
        ("--batch-tokens", "0", "--batch-tokens 0"),
    ] {
        index(&["refresh"], &at).with(flag, value).run().refused(&[value, says]);
    }
    assert_eq!(kept().len(), 2, "what is refused embeds nothing");
}

#[test]
fn a_search_can_be_among_some_passages() {
    let folder = folder();
    let at = base_index();
    let all = lines(&fixture("tiny/corpus.jsonl"));
    let id = |row: usize| all[row]["id"].as_str().unwrap().to_owned();
    let ids = folder.path().join("ids.txt");
    std::fs::write(&ids, format!("{}\n{}\n", id(5), id(50))).unwrap();
    let mut among = found(at, &all[0], &["--ids", ids.to_str().unwrap()]);
    among.sort();
    let mut expected = vec![id(5), id(50)];
    expected.sort();
    assert_eq!(among, expected, "fewer than asked for, where fewer are allowed");
    let condition = format!("title = '{}'", all[1]["title"].as_str().unwrap());
    assert!(found(at, &all[0], &["--where", &condition]).contains(&id(1)));
    assert!(found(at, &all[0], &["--where", &condition, "--ids", ids.to_str().unwrap()]).is_empty());
    let wrong = index(&["search", "--query", "x", "--where", "colour = 'red'"], at).run();
    wrong.refused(&["`colour = 'red'`", "title LIKE"]);
    std::fs::write(&ids, "nobody\n").unwrap();
    index(&["search", "--query", "x"], at).with("--ids", &ids).run().refused(&["nobody"]);
    std::fs::write(&ids, "\n").unwrap();
    index(&["search", "--query", "x"], at).with("--ids", &ids).run().refused(&["holds no id"]);
}

#[test]
fn mending_builds_a_graph_as_it_was_built() {
    let folder = folder();
    let at = folder.path().join("index");
    ragtune(&["index", "build", "--links", "32", "--ef-construction", "300"])
        .with("--corpus", fixture("tiny/corpus.jsonl"))
        .with("--encoder", encoder())
        .with("--out", &at)
        .run()
        .done();
    let current = std::fs::read_to_string(at.join("generations/CURRENT")).unwrap();
    let sidecar = at.join("generations").join(current.trim());
    let good = std::fs::read(sidecar.join("graph.bin")).unwrap();
    std::fs::write(sidecar.join("graph.bin"), &good[..good.len() / 2]).unwrap();
    index(&["check", "--mend"], &at).run().done();
    let graph = &json(&sidecar.join("MANIFEST.json"))["content"]["graph"];
    assert_eq!((&graph["links"], &graph["ef_construction"]), (&json!(32), &json!(300)));
    assert!(std::fs::read(sidecar.join("graph.bin")).unwrap() == good);
}
