//! `ragtune inspect`: what it says of the fixtures is what is in them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::*;

fn inspect(model: &Path, words: &[&str]) -> Value {
    ragtune(&["inspect", "--json"]).and(&[model.to_str().unwrap()]).and(words).run().json()
}

fn text(model: &Path) -> String {
    ragtune(&["inspect"]).and(&[model.to_str().unwrap()]).run().done().stdout
}

/// Numbers and tensors in a file of weights, from its header alone.
fn header(file: &Path) -> (u64, u64) {
    let bytes = std::fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let size =
        |entry: &Value| -> u64 { entry["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product() };
    tensors.fold((0, 0), |(numbers, count), (_, entry)| (numbers + size(entry), count + 1))
}

/// What a strategy trains, by its name.
fn trains(inspected: &Value, strategy: &str) -> u64 {
    let all = inspected["trains"].as_array().unwrap();
    let one = all.iter().find(|one| one["strategy"] == strategy).unwrap_or_else(|| panic!("{strategy}: {all:?}"));
    one["parameters"].as_u64().unwrap()
}

#[test]
fn an_encoder() {
    let found = inspect(&encoder(), &[]);
    let (numbers, tensors) = header(&encoder().join("model.safetensors"));
    assert_eq!((&found["schema"], &found["kind"], &found["family"]), (&json!(1), &json!("encoder"), &json!("bert")));
    assert_eq!(found["architecture"], "BertModel");
    assert_eq!((&found["parameters"]["total"], &found["tensors"]), (&json!(numbers), &json!(tensors)));
    // Words, 160 positions and 2 segments of 160 numbers each, and the norm over them.
    let config = json(&encoder().join("config.json"));
    let vocabulary = found["shape"]["vocabulary"].as_u64().unwrap();
    assert_eq!(found["parameters"]["embedding"], (vocabulary + 160 + 2 + 2) * 160);
    for (key, name) in [
        ("width", "hidden_size"),
        ("inner", "intermediate_size"),
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("positions", "max_position_embeddings"),
    ] {
        assert_eq!(found["shape"][key], config[name], "{key}");
    }
    let part = &found["encoder"];
    assert_eq!((&part["dimension"], &part["max_length"]), (&json!(160), &json!(160)));
    assert_eq!((&part["pooling"], &part["normalize"]), (&json!("mean"), &json!(true)));
    assert_eq!(part["modules"], json!(["Transformer", "Pooling", "Normalize"]));
    assert_eq!((&part["question_prompt"], &part["passage_prompt"]), (&json!(""), &json!("")));
    assert_eq!((&found["generator"], &found["adapter"], &found["hub"]), (&Value::Null, &Value::Null, &Value::Null));
    let (hidden, attention) = (&config["hidden_dropout_prob"], &config["attention_probs_dropout_prob"]);
    let asked = json!({"embedding": hidden, "attention": attention, "attended": hidden, "feed_forward": hidden});
    assert_eq!(part["dropout"], asked);
    let tokenizer = &found["tokenizer"];
    assert_eq!(tokenizer["kind"], "WordPiece");
    assert_eq!(tokenizer["special"]["pad"], json!({"token": "[PAD]", "id": 0}));
    let stored: u64 = found["stored"].as_object().unwrap().values().map(|numbers| numbers.as_u64().unwrap()).sum();
    assert_eq!(stored, numbers);
    let on_disk: u64 = files(&encoder()).iter().map(|file| encoder().join(file).metadata().unwrap().len()).sum();
    assert_eq!(found["bytes"], on_disk);
    assert_eq!(found["files"].as_object().unwrap().len(), files(&encoder()).len());

    let unused = found["parameters"]["unused"].as_u64().unwrap();
    for (strategy, expected) in
        [("frozen", 0), ("generator", 0), ("embedder", numbers - unused), ("joint", numbers - unused)]
    {
        assert_eq!(trains(&found, strategy), expected, "{strategy}");
    }
    let named = inspect(&encoder(), &["--strategy", "embedder"]);
    assert_eq!(named["trains"].as_array().unwrap().len(), 1);
    let text = text(&encoder());
    for part in [
        "attention 0, ",
        "--dropout config",
        "encoder of the family bert",
        "mean",
        "unit length",
        "WordPiece",
        "embedder",
        "model.safetensors",
        // The longest name ends before its column does.
        "  two-phase-reversed  trains ",
        "  joint               trains ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_generator_whole_and_with_an_adapter() {
    let model = fixture("models/qa-llama");
    let found = inspect(&model, &[]);
    let (numbers, _) = header(&model.join("model.safetensors"));
    assert_eq!((&found["kind"], &found["family"]), (&json!("generator"), &json!("llama")));
    assert_eq!(found["parameters"]["total"], numbers);
    assert_eq!(found["parameters"]["embedding"], 6144 * 256, "tied: one table");
    assert_eq!(found["stored"], json!({"f16": numbers}));
    let shape = &found["shape"];
    assert_eq!((&shape["width"], &shape["inner"], &shape["layers"]), (&json!(256), &json!(512), &json!(6)));
    assert_eq!((&shape["heads"], &shape["key_value_heads"], &shape["positions"]), (&json!(8), &json!(8), &json!(512)));
    let part = &found["generator"];
    assert_eq!((&part["begin"], &part["end"], &part["max_positions"]), (&json!(1), &json!([2]), &json!(512)));
    assert_eq!(part["prompt"], "prompt.json");
    assert_eq!(part["dropout"], json!({"attention": 0.0}));
    assert_eq!(found["tokenizer"]["special"]["eos"], json!({"token": "<eos>", "id": 2}));
    for (strategy, expected) in [("frozen", 0), ("embedder", 0), ("generator", numbers), ("joint", numbers)] {
        assert_eq!(trains(&found, strategy), expected, "{strategy}");
    }
    // Rank r on a (256, 256) projection: r rows and r columns of 256.
    let adapted = inspect(&model, &["--lora-rank", "4", "--lora-targets", "q_proj,v_proj"]);
    assert_eq!(trains(&adapted, "joint"), 6 * 2 * 4 * (256 + 256));
    assert_eq!((trains(&adapted, "embedder"), &adapted["parameters"]["total"]), (0, &json!(numbers)));
    assert!(adapted["trains"].as_array().unwrap().iter().any(|one| one["lora"] == true));
    // What is said is what a run then trains.
    let folder = folder();
    let out = folder.path().join("run");
    train("joint", base_index(), &out).and(&["--steps", "1", "--lora-rank", "4"]).run().done();
    let record = json(&out.join("record.json"));
    let said = inspect(&small_generator(), &["--lora-rank", "4"]);
    assert_eq!(record["models"][1]["trained_parameters"], trains(&said, "joint"));
    assert_eq!(record["models"][0]["trained_parameters"], trains(&inspect(&encoder(), &[]), "joint"));
    let text = text(&model);
    for part in ["generator of the family llama", "f16", "prompt.json", "BPE", "pad <pad> (0)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_adapter() {
    let adapter = fixture("golden/lora/all-linear");
    let found = inspect(&adapter, &[]);
    let config = json(&adapter.join("adapter_config.json"));
    let (numbers, tensors) = header(&adapter.join("adapter_model.safetensors"));
    assert_eq!((&found["kind"], &found["family"]), (&json!("adapter"), &json!("LORA")));
    assert_eq!(found["parameters"]["total"], numbers);
    let part = &found["adapter"];
    assert_eq!((&part["rank"], &part["alpha"]), (&config["r"], &json!(config["lora_alpha"].as_f64().unwrap())));
    assert_eq!((&part["targets"], &part["modules"]), (&config["target_modules"], &json!(tensors / 2)));
    assert_eq!((trains(&found, "joint"), trains(&found, "embedder")), (numbers, 0));
    assert!(text(&adapter).contains("adapter of the family LORA"));
}

#[test]
fn folders_that_are_no_models() {
    let folder = folder();
    let refused = |path: &Path, says: &[&str]| {
        ragtune(&["inspect", "--json"]).and(&[path.to_str().unwrap()]).run().refused(says);
    };
    refused(Path::new("./nowhere"), &["no model folder `./nowhere`"]);
    refused(folder.path(), &["is no model folder", "modules.json", "adapter_config.json"]);
    refused(&encoder().join("config.json"), &["no model folder"]);
    let run = folder.path().join("run");
    train("frozen", base_index(), &run).run().done();
    refused(&run, &["is a run, not a model"]);
    let unknown = folder.path().join("unknown");
    std::fs::create_dir(&unknown).unwrap();
    std::fs::write(unknown.join("config.json"), r#"{"model_type": "rwkv", "architectures": ["RwkvForCausalLM"]}"#)
        .unwrap();
    refused(&unknown, &["`rwkv`", "llama"]);
    std::fs::write(unknown.join("config.json"), "{").unwrap();
    refused(&unknown, &["config.json", "JSON"]);
    let bare = folder.path().join("bare");
    copy(&encoder(), &bare);
    std::fs::remove_file(bare.join("modules.json")).unwrap();
    refused(&bare, &["modules.json"]);
    ragtune(&["inspect", "--strategy", "best"]).and(&[encoder().to_str().unwrap()]).run().refused(&["`best`", "joint"]);
    ragtune(&["inspect", "--lora-rank", "4"]).and(&[encoder().to_str().unwrap()]).run().refused(&["--lora-rank"]);
    ragtune(&["inspect", "--lora-rank", "0"])
        .and(&[small_generator().to_str().unwrap()])
        .run()
        .refused(&["rank is `0`"]);
}

/// The models of the shared folder, where it is there.
#[test]
fn shared_models_are_described_as_they_are() {
    let shared = |name: &str| -> Option<PathBuf> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models").join(name);
        if !path.exists() {
            eprintln!("skipped: `{}` is not there", path.display());
        }
        path.exists().then_some(path)
    };
    if let Some(model) = shared("all-MiniLM-L6-v2") {
        let found = inspect(&model, &[]);
        // 22 713 216 without position ids: the number everybody states for MiniLM-L6.
        assert_eq!(found["parameters"]["total"], 22_713_216);
        // The pooler takes no part in a vector: 384 rows of 384, and as many biases.
        assert_eq!(found["parameters"]["unused"], 384 * 385);
        assert_eq!(found["parameters"]["embedding"], (30_522 + 512 + 2 + 2) * 384);
        assert_eq!((&found["family"], &found["encoder"]["dimension"]), (&json!("bert"), &json!(384)));
        assert_eq!((&found["encoder"]["max_length"], &found["shape"]["positions"]), (&json!(256), &json!(512)));
        assert_eq!((&found["shape"]["layers"], &found["shape"]["heads"]), (&json!(6), &json!(12)));
        assert_eq!(found["tokenizer"]["vocabulary"], 30_522);
        assert_eq!(trains(&found, "embedder"), 22_713_216 - 384 * 385);
    }
    for (name, width, layers, vocabulary) in
        [("qa-llama", 256, 6, 6144), ("stories260k-hf", 64, 5, 512), ("tinystories-656k", 128, 2, 2048)]
    {
        let Some(model) = shared(name) else { continue };
        let found = inspect(&model, &[]);
        let (numbers, _) = header(&model.join("model.safetensors"));
        assert_eq!((&found["kind"], &found["family"]), (&json!("generator"), &json!("llama")), "{name}");
        assert_eq!(found["shape"]["width"], width, "{name}");
        assert_eq!((&found["shape"]["layers"], &found["shape"]["vocabulary"]), (&json!(layers), &json!(vocabulary)));
        assert_eq!(found["parameters"]["embedding"], width * vocabulary, "{name}: tied");
        let total = found["parameters"]["total"].as_u64().unwrap();
        // A tied table may be stored under both of its names.
        assert!(total == numbers || total + (width * vocabulary) as u64 == numbers, "{name}: {total} of {numbers}");
        assert_eq!(found["generator"]["prompt"], "default", "{name}");
    }
}
