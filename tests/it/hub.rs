//! Models by name, against a hub that runs in the test.

use std::path::{Path, PathBuf};

use crate::support::*;

const FIRST: &str = "00112233445566778899aabbccddeeff00112233";
const SECOND: &str = "ffeeddccbbaa99887766554433221100ffeeddcc";
const NAME: &str = "tests/encoder";

/// A command that asks this hub, with a cache of its own.
trait Asking {
    fn asking(self, hub: &Hub, home: &Path) -> Self;
}

impl Asking for Ragtune {
    fn asking(self, hub: &Hub, home: &Path) -> Self {
        self.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", hub.address()).env("HF_HOME", home)
    }
}

/// The fixture encoder with files that no loader reads beside it.
fn crowded(folder: &Path) -> PathBuf {
    let to = folder.join("crowded");
    copy(&encoder(), &to);
    for file in
        ["pytorch_model.bin", "onnx/model.onnx", "tf_model.h5", "openvino/config.json", "model.fp16.safetensors"]
    {
        std::fs::create_dir_all(to.join(file).parent().unwrap()).unwrap();
        std::fs::write(to.join(file), "of no use").unwrap();
    }
    to
}

/// The encoder with one weight changed.
fn other_encoder(folder: &Path) -> PathBuf {
    let to = folder.join("other");
    copy(&encoder(), &to);
    edit_tensors(&to.join("model.safetensors"), |name, tensor| {
        if name.ends_with("embeddings.LayerNorm.bias") {
            tensor.values[0] += 0.5;
        }
    });
    to
}

fn inspect(model: &str) -> Ragtune {
    ragtune(&["inspect", "--json", model])
}

fn snapshot(home: &Path, commit: &str) -> PathBuf {
    home.join("hub/models--tests--encoder/snapshots").join(commit)
}

/// What a search with this encoder finds, scores and all.
fn vectors(encoder: &str, hub: &Hub, home: &Path) -> serde_json::Value {
    ragtune(&["index", "search", "--json", "--query", "red bull"])
        .with("--index", base_index())
        .with("--encoder", encoder)
        .asking(hub, home)
        .run()
        .json()
}

#[test]
fn a_name_gives_the_vectors_of_its_folder_and_is_fetched_once() {
    let folder = folder();
    let home = folder.path().join("home");
    let hub = Hub::start([(NAME, Model::of(&crowded(folder.path()), FIRST))]);
    let from_folder = vectors(encoder().to_str().unwrap(), &hub, &home);
    assert!(hub.requests().is_empty(), "a folder that exists is never looked up");

    assert_eq!(vectors(NAME, &hub, &home), from_folder);
    let sent: Vec<String> = hub.sent().into_iter().map(|(file, _)| file).collect();
    for read in ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json", "model.safetensors"] {
        assert!(sent.iter().any(|file| file == read), "{read}: {sent:?}");
    }
    for useless in [".bin", ".onnx", ".h5", "openvino", "fp16", "README", "training.json"] {
        assert!(!sent.iter().any(|file| file.contains(useless)), "{useless}: {sent:?}");
    }
    let snapshot = snapshot(&home, FIRST);
    assert_eq!(digest(&snapshot.join("model.safetensors")), digest(&encoder().join("model.safetensors")));
    assert!(snapshot.join("model.safetensors").is_symlink(), "content lies in blobs/, where other commits share it");
    let main = std::fs::read_to_string(home.join("hub/models--tests--encoder/refs/main")).unwrap();
    assert_eq!(main, FIRST);

    // Again: what the branch stands for is asked, no file is fetched. Offline: nothing is asked.
    hub.requests();
    assert_eq!(vectors(NAME, &hub, &home), from_folder);
    let asked = hub.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].0.ends_with("/revision/main") && hub.sent().is_empty(), "{asked:?}");
    let offline = inspect(NAME).asking(&hub, &home).env("HF_HUB_OFFLINE", "1").run().json();
    assert_eq!(offline["hub"], serde_json::json!({"repo": NAME, "revision": "main", "commit": FIRST}));
    // A commit never changes, so nothing is asked either.
    let pinned = inspect(&format!("{NAME}@{FIRST}")).asking(&hub, &home).run().json();
    assert_eq!(pinned["hub"]["commit"], FIRST);
    assert!(hub.requests().is_empty());
    let from_folder = inspect(encoder().to_str().unwrap()).run().json();
    for key in ["parameters", "stored", "shape", "encoder", "tokenizer", "trains"] {
        assert_eq!(pinned[key], from_folder[key], "{key}");
    }
}

#[test]
fn offline_and_not_in_the_cache_says_what_is_missing() {
    let folder = folder();
    let home = folder.path().join("home");
    let hub = Hub::start([(NAME, Model::of(&encoder(), FIRST))]);
    let offline = |name: &str| inspect(name).asking(&hub, &home).env("HF_HUB_OFFLINE", "yes").run();
    offline(NAME).refused(&["`tests/encoder`", "HF_HUB_OFFLINE", "main", home.to_str().unwrap()]);
    inspect(NAME).asking(&hub, &home).run().done();
    offline(NAME).done();
    offline(&format!("{NAME}@v2")).refused(&["`v2`", "HF_HUB_OFFLINE"]);
    // Somebody removed a file of the cache.
    std::fs::remove_file(snapshot(&home, FIRST).join("1_Pooling/config.json")).unwrap();
    offline(NAME).refused(&["1_Pooling/config.json", "only a part", FIRST]);
    inspect(NAME).asking(&hub, &home).run().done();
    offline(NAME).done();
}

#[test]
fn a_token_is_sent_and_a_missing_one_is_asked_for() {
    let folder = folder();
    let home = folder.path().join("home");
    let hub = Hub::start([(NAME, Model::of(&encoder(), FIRST))]);
    hub.asks_for("secret-token");
    inspect(NAME).asking(&hub, &home).run().refused(&["`tests/encoder`", "401", "HF_TOKEN"]);
    inspect(NAME).asking(&hub, &home).env("HF_TOKEN", "wrong").run().refused(&["HF_TOKEN"]);
    hub.requests();
    let ran = inspect(NAME).asking(&hub, &home).env("HF_TOKEN", "secret-token").run().done();
    let requests = hub.requests();
    assert!(requests.len() > 5 && requests.iter().all(|(_, sent)| sent.as_deref() == Some("Bearer secret-token")));
    assert!(!(ran.stdout + &ran.stderr).contains("secret-token"), "a token is never printed");
    // As `hf auth login` leaves it.
    let home = folder.path().join("other-home");
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("token"), "secret-token\n").unwrap();
    inspect(NAME).asking(&hub, &home).run().done();
}

#[test]
fn an_unknown_name_and_an_unreachable_hub_are_told_apart() {
    let folder = folder();
    let home = folder.path().join("home");
    let hub = Hub::start([(NAME, Model::of(&encoder(), FIRST))]);
    let build =
        |name: &str| build_command(&fixture("tiny/corpus.jsonl"), Path::new(name), &folder.path().join("index"));
    build("tests/nothing").asking(&hub, &home).run().refused(&["`tests/nothing`", "is no folder here", "404"]);
    build("nothing").asking(&hub, &home).run().refused(&["`nothing`", "is no folder here"]);
    build("tests/encoder@v9").asking(&hub, &home).run().refused(&["`tests/encoder`", "no revision `v9`", "@v9"]);
    // What cannot be a name is a path, and nobody is asked.
    hub.requests();
    for path in ["./tests/encoder", "a/b/c", "/nowhere"] {
        build(path).asking(&hub, &home).run().refused(&[path]);
    }
    assert!(hub.requests().is_empty());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = || inspect(NAME).asking(&hub, &home).env("HF_ENDPOINT", format!("http://{nobody}")).run();
    unreachable().refused(&["cannot be reached", "HF_ENDPOINT"]);
    inspect(NAME).asking(&hub, &home).run().done();
    unreachable().refused(&["cannot be reached", "HF_HUB_OFFLINE=1", FIRST]);
    inspect(NAME).asking(&hub, &home).env("HF_ENDPOINT", "hub.example").run().refused(&["HF_ENDPOINT", "hub.example"]);
}

#[test]
fn a_connection_that_breaks_is_gone_on_with() {
    let folder = folder();
    let home = folder.path().join("home");
    let hub = Hub::start([(NAME, Model::of(&encoder(), FIRST))]);
    hub.break_after(1_000_000);
    inspect(NAME).asking(&hub, &home).run().refused(&["model.safetensors", "could not be fetched", "goes on"]);
    assert!(!snapshot(&home, FIRST).join("model.safetensors").exists(), "half a file is no file");
    // Offline it is not taken for whole.
    let offline = inspect(NAME).asking(&hub, &home).env("HF_HUB_OFFLINE", "1").run();
    offline.refused(&["HF_HUB_OFFLINE"]);
    hub.come_back();
    hub.sent();
    inspect(NAME).asking(&hub, &home).run().done();
    let sent = hub.sent();
    let weights: Vec<usize> =
        sent.iter().filter(|(file, _)| file == "model.safetensors").map(|(_, from)| *from).collect();
    assert_eq!(weights, [1_000_000], "what had come was not fetched again: {sent:?}");
    let whole = snapshot(&home, FIRST).join("model.safetensors");
    assert_eq!(digest(&whole), digest(&encoder().join("model.safetensors")));
}

#[test]
fn a_part_that_is_already_whole_is_taken_over() {
    let folder = folder();
    let home = folder.path().join("home");
    let hub = Hub::start([(NAME, Model::of(&encoder(), FIRST))]);
    // Killed between the last byte and the renaming.
    let blobs = home.join("hub/models--tests--encoder/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let weights = encoder().join("model.safetensors");
    std::fs::copy(&weights, blobs.join(format!("{}.part", &digest(&weights)[..40]))).unwrap();
    inspect(NAME).asking(&hub, &home).run().done();
    assert_eq!(digest(&snapshot(&home, FIRST).join("model.safetensors")), digest(&weights));
}

#[test]
fn a_revision_picks_its_commit_and_shares_what_is_the_same() {
    let folder = folder();
    let home = folder.path().join("home");
    let other = other_encoder(folder.path());
    let hub = Hub::start([(NAME, Model::of(&encoder(), FIRST).with("refs/pr/1", SECOND, &other))]);
    inspect(NAME).asking(&hub, &home).run().done();
    hub.sent();
    let second = inspect(&format!("{NAME}@refs/pr/1")).asking(&hub, &home).run().json();
    let origin = serde_json::json!({"repo": NAME, "revision": "refs/pr/1", "commit": SECOND});
    assert_eq!(second["hub"], origin);
    let sent: Vec<String> = hub.sent().into_iter().map(|(file, _)| file).collect();
    assert_eq!(sent, ["model.safetensors"], "all other files are the same as of the first commit");
    for (commit, weights) in [(FIRST, encoder()), (SECOND, other)] {
        let cached = snapshot(&home, commit).join("model.safetensors");
        assert_eq!(digest(&cached), digest(&weights.join("model.safetensors")));
        assert!(snapshot(&home, commit).join("1_Pooling/config.json").is_file());
    }
    let by_commit = inspect(&format!("{NAME}@{SECOND}")).asking(&hub, &home).run().json();
    assert_eq!(by_commit["hub"]["commit"], SECOND);
}

#[test]
fn a_model_with_pickled_weights_only_is_refused_before_it_is_fetched() {
    let folder = folder();
    let home = folder.path().join("home");
    let pickled = folder.path().join("pickled");
    copy(&encoder(), &pickled);
    std::fs::rename(pickled.join("model.safetensors"), pickled.join("pytorch_model.bin")).unwrap();
    let hub = Hub::start([(NAME, Model::of(&pickled, FIRST))]);
    inspect(NAME).asking(&hub, &home).run().refused(&["`tests/encoder`", ".bin", "save_pretrained"]);
    assert!(hub.sent().is_empty());
}

#[test]
fn shards_are_fetched_as_their_index_names_them() {
    let folder = folder();
    let home = folder.path().join("home");
    let sharded = folder.path().join("sharded");
    copy(&encoder(), &sharded);
    let shards = shard(&sharded, &["weights-a.safetensors", "weights-b.safetensors"]);
    std::fs::write(sharded.join("consolidated.safetensors"), "the same again").unwrap();
    let hub = Hub::start([(NAME, Model::of(&sharded, FIRST))]);
    let whole = vectors(encoder().to_str().unwrap(), &hub, &home);
    assert_eq!(vectors(NAME, &hub, &home), whole);
    let sent: Vec<String> = hub.sent().into_iter().map(|(file, _)| file).collect();
    assert!(shards.iter().all(|shard| sent.contains(shard)), "{sent:?}");
    assert!(!sent.iter().any(|file| file.starts_with("consolidated")), "{sent:?}");
    // A shard that the repository lacks.
    std::fs::remove_file(sharded.join(&shards[1])).unwrap();
    let home = folder.path().join("other-home");
    inspect(NAME).asking(&hub, &home).run().refused(&["lacks the shard `weights-b.safetensors`"]);
}

/// The record names what was asked for and what it stood for; the run goes on with that, whatever the branch does.
#[test]
fn a_run_stays_with_the_commit_it_began_with() {
    let folder = folder();
    let (home, index, out) = (folder.path().join("home"), folder.path().join("index"), folder.path().join("run"));
    let generator = "tests/generator";
    let model = Model::of(&small_generator(), FIRST);
    let hub = Hub::start([(NAME, Model::of(&encoder(), FIRST)), (generator, model.clone())]);
    build_command(&fixture("tiny/corpus.jsonl"), Path::new(NAME), &index).asking(&hub, &home).run().done();
    let steps = || std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    let mut running = train_with(Path::new(generator), "joint", &index, &out)
        .and(&["--steps", "12", "--checkpoint-every", "1", "--lora-rank", "2"])
        .asking(&hub, &home)
        .start();
    assert!(running.until(|| steps() >= 2));
    running.terminate();
    assert_eq!(running.end().code, Some(130));
    let record = json(&out.join("record.json"));
    let origin = |revision: &str, repo: &str| serde_json::json!({"repo": repo, "revision": revision, "commit": FIRST});
    assert_eq!(record["config"]["hub"]["generator"], origin("main", generator));
    // The index noted the commit, so that is what was asked for.
    assert_eq!(record["config"]["hub"]["encoder"], origin(FIRST, NAME));
    assert_eq!(record["models"][0]["name"], format!("{NAME}@{FIRST}"));
    assert_eq!(record["models"][1]["name"], format!("{generator}@{FIRST}"));

    // The branch moves to another model; the run does not.
    let moved = folder.path().join("moved");
    copy(&small_generator(), &moved);
    edit_tensors(&moved.join("model.safetensors"), |name, tensor| {
        if name == "lm_head.weight" {
            tensor.values[0] += 1.0;
        }
    });
    hub.put(generator, model.with("main", SECOND, &moved));
    hub.requests();
    ragtune(&["train"]).with("--resume", &out).asking(&hub, &home).run().done();
    assert!(hub.requests().is_empty(), "commits in the cache need no hub");
    let evaluated = ragtune(&["eval", "--limit", "2", "--json"])
        .with("--run", &out)
        .with("--questions", fixture("tiny/dev.jsonl"))
        .asking(&hub, &home)
        .env("HF_HUB_OFFLINE", "1")
        .run()
        .json();
    assert_eq!(evaluated["hub"]["generator"]["commit"], FIRST);
    let adapter = json(&out.join("adapter/adapter_config.json"));
    assert_eq!((&adapter["base_model_name_or_path"], &adapter["revision"]), (&generator.into(), &FIRST.into()));
    // The settings of the run begin it again with the same files; a new run takes what the branch is now.
    let again = folder.path().join("again");
    ragtune(&["train", "--steps", "0"])
        .with("--config", out.join("config.toml"))
        .with("--out", &again)
        .asking(&hub, &home)
        .run()
        .done();
    assert_eq!(json(&again.join("record.json"))["config"]["hub"]["generator"]["commit"], FIRST);
    let new = folder.path().join("new");
    train_with(Path::new(generator), "frozen", &index, &new).asking(&hub, &home).run().done();
    assert_eq!(json(&new.join("record.json"))["config"]["hub"]["generator"]["commit"], SECOND);
}
