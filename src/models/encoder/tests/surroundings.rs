//! What stands around the transformer: poolings, prompts left out, further modules, cut vectors, model cards.

use super::families::{ROLES, embed, folder, numbers};
use super::*;

const POOLINGS: [&str; 6] = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"];

/// The RoBERTa folder with these poolings and no other module, said by name or by booleans.
fn pooled(modes: &[&str], by_name: bool, include_prompt: bool) -> Copy {
    let copy = Copy::of(&folder("roberta"));
    copy.edit("modules.json", |list| list.as_array_mut().unwrap().truncate(2));
    copy.edit("1_Pooling/config.json", |pooling| {
        *pooling = json!({"word_embedding_dimension": 32, "include_prompt": include_prompt});
        if by_name {
            pooling["pooling_mode"] = if modes.len() == 1 { json!(modes[0]) } else { json!(modes) };
        } else {
            for mode in modes {
                let key = match *mode {
                    "cls" => "cls_token".to_owned(),
                    "max" | "mean" | "weightedmean" => format!("{mode}_tokens"),
                    other => other.to_owned(),
                };
                pooling[format!("pooling_mode_{key}")] = json!(true);
            }
        }
    });
    copy
}

#[test]
fn every_pooling_equals_that_of_sentence_transformers_with_and_without_prompts() {
    let (listing, expected) = (json_of(&golden("encoder_families.json")), numbers());
    for mode in POOLINGS {
        for include_prompt in [false, true] {
            for by_name in [false, true] {
                let encoder = load(pooled(&[mode], by_name, include_prompt).path()).unwrap();
                assert_eq!(encoder.pooling_name(), mode);
                for (role, name) in ROLES {
                    let want = &expected[&format!("pool/{mode}/{}/{name}", u8::from(include_prompt))];
                    let error = largest_difference(&values(&embed(&encoder, &texts(&listing), role)), &values(want));
                    assert!(error < 1e-5, "{mode} {include_prompt} {name}: {error}");
                }
            }
        }
    }
}

#[test]
fn several_poolings_stand_side_by_side() {
    let of = |copy: &Copy| embed(&load(copy.path()).unwrap(), &["the old sea", "stone"], Role::Passage);
    let single = |mode: &str| of(&pooled(&[mode], true, false));
    let pair = |one: &str, two: &str| bits(&Tensor::cat(&[single(one), single(two)], 1).unwrap());
    let named = pooled(&["weightedmean", "cls"], true, false);
    assert_eq!(bits(&of(&named)), pair("weightedmean", "cls"));
    // Booleans have no order: sentence-transformers puts the first token first.
    assert_eq!(bits(&of(&pooled(&["weightedmean", "cls"], false, false))), pair("cls", "weightedmean"));
    let encoder = load(named.path()).unwrap();
    assert_eq!((encoder.pooling_name().as_str(), encoder.dim()), ("weightedmean+cls", 64));
    let root = tempfile::tempdir().unwrap();
    encoder.save(&root.path().join("saved")).unwrap();
    let config = json_of(&root.path().join("saved/1_Pooling/config.json"));
    assert_eq!(config["pooling_mode"], json!(["weightedmean", "cls"]));
    assert_eq!(config["pooling_mode_cls_token"], json!(true));
    assert_eq!(config["pooling_mode_mean_tokens"], json!(false));
    let again = load(&root.path().join("saved")).unwrap();
    assert_eq!(again.fingerprint().unwrap(), encoder.fingerprint().unwrap());
}

#[test]
fn only_folders_that_name_their_pooling_are_saved_with_its_name() {
    let root = tempfile::tempdir().unwrap();
    for by_name in [false, true] {
        let dir = root.path().join(by_name.to_string());
        load(pooled(&["lasttoken"], by_name, false).path()).unwrap().save(&dir).unwrap();
        let config = json_of(&dir.join("1_Pooling/config.json"));
        assert_eq!(config.get("pooling_mode").is_some(), by_name);
        assert_eq!((&config["pooling_mode_lasttoken"], &config["include_prompt"]), (&json!(true), &json!(false)));
    }
}

#[test]
fn prompts_are_left_out_by_role_and_an_encoder_asks_whose() {
    let encoder = load(&folder("roberta")).unwrap();
    let ids = encoder.tokenize(&["the sea"], Role::Question).unwrap().ids;
    let error = encoder.forward(&ids, Grad::Off).unwrap_err().to_string();
    assert!(error.contains("`4`") && error.contains("`2`"), "{error}");
    assert_eq!(encoder.fingerprint().unwrap()["include_prompt"], "false");
    // Prompts of one length need no telling, and without prompts nothing is left out.
    let copy = Copy::of(&folder("roberta"));
    copy.edit("config_sentence_transformers.json", |config| {
        config["prompts"] = json!({"query": "ask ", "document": "tell "});
    });
    let encoder = load(copy.path()).unwrap();
    let ids = encoder.tokenize(&["the sea"], Role::Question).unwrap().ids;
    let told = encoder.forward_as(&ids, Role::Question, Grad::Off).unwrap();
    assert_eq!(bits(&encoder.forward(&ids, Grad::Off).unwrap()), bits(&told));
    copy.edit("config_sentence_transformers.json", |config| config["prompts"] = json!({}));
    let none = load(copy.path()).unwrap();
    assert!(!none.fingerprint().unwrap().contains_key("include_prompt"), "it changes nothing here");
    none.forward(&ids, Grad::Off).unwrap();
}

#[test]
fn a_text_that_is_only_its_prompt_gives_zeros() {
    let copy = Copy::of(&folder("qwen3"));
    // No special token at all: nothing follows the prompt.
    copy.edit("tokenizer.json", |tokenizer| tokenizer["post_processor"] = json!(null));
    let encoder = load(copy.path()).unwrap();
    let ids = encoder.tokenize(&["", "the sea"], Role::Question).unwrap().ids;
    assert_eq!((ids[0].len(), ids[1].len()), (3, 5));
    let rows = encoder.forward_as(&ids, Role::Question, Grad::On).unwrap().to_vec2::<f32>().unwrap();
    assert!(rows[0].iter().all(|value| *value == 0.0) && rows[1].iter().all(|value| *value != 0.0), "{rows:?}");
}

#[test]
fn the_activations_of_a_dense_module_are_those_of_pytorch() {
    let (listing, expected) = (json_of(&golden("encoder_families.json")), numbers());
    let classes = ["linear.Identity", "activation.Sigmoid", "activation.ReLU", "activation.GELU", "activation.SiLU"];
    let mut fingerprints = Vec::new();
    for class in classes {
        let copy = Copy::of(&folder("mpnet"));
        copy.edit("2_Dense/config.json", |config| {
            config["activation_function"] = json!(format!("torch.nn.modules.{class}"))
        });
        let encoder = load(copy.path()).unwrap();
        let want = &expected[&format!("dense/{}", class.rsplit('.').next().unwrap())];
        let got = embed(&encoder, &texts(&listing), Role::Question);
        let error = largest_difference(&values(&got), &values(want));
        assert!(error < 1e-5, "{class}: {error}");
        fingerprints.push(encoder.fingerprint().unwrap()["modules"].clone());
    }
    assert_eq!(fingerprints[1], "Dense(Sigmoid), LayerNorm, Normalize");
    fingerprints.sort();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), classes.len());
}

#[test]
fn modules_that_cannot_be_used_are_refused_by_name() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let edits: [(&str, Change, &[&str]); 8] = [
        ("2_Dense/config.json", |c| c["in_features"] = json!(31), &["in_features", "`31`", "32"]),
        ("2_Dense/config.json", |c| c["out_features"] = json!(0), &["out_features", "`0`"]),
        ("2_Dense/config.json", |c| c["out_features"] = json!(23), &["`24`", "`23`"]),
        ("2_Dense/config.json", |c| c["activation_function"] = json!("mine.Swirl"), &["mine.Swirl", "Tanh"]),
        ("2_Dense/config.json", |c| c["module_input_name"] = json!("token_embeddings"), &["module_input_name"]),
        ("2_Dense/config.json", |c| c["bias"] = json!(false), &["linear.bias", "Dense"]),
        ("3_LayerNorm/config.json", |c| c["dimension"] = json!(9), &["dimension", "`9`", "24"]),
        ("1_Pooling/config.json", |c| c["embedding_dimension"] = json!(9), &["`9`"]),
    ];
    for (file, change, parts) in edits {
        let text = Copy::of(&folder("mpnet")).edit(file, change).refusal();
        // A width may be refused by the module itself or by the one that follows it.
        assert!(parts.iter().all(|part| text.contains(part)), "`{text}` should say {parts:?}");
    }
    let copy = Copy::of(&folder("mpnet"));
    copy.tensors_of("2_Dense/model.safetensors", |all| drop(all.insert("linear.weight".into(), zeros(&[24, 31]))));
    let text = copy.refusal();
    assert!(text.contains("linear.weight") && text.contains("[24, 31]") && text.contains("2_Dense"), "{text}");
    let copy = Copy::of(&folder("mpnet"));
    copy.tensors_of("3_LayerNorm/model.safetensors", |all| drop(all.insert("surprise".into(), zeros(&[1]))));
    assert!(copy.refusal().contains("surprise"));
    let copy = Copy::of(&folder("mpnet"));
    fs::remove_file(copy.path().join("2_Dense/model.safetensors")).unwrap();
    assert!(copy.refusal().contains("2_Dense"));
}

#[test]
fn tokens_that_a_language_model_is_promised_must_be_added() {
    let copy = Copy::of(&folder("llama"));
    copy.edit("tokenizer_config.json", |config| {
        config["add_bos_token"] = json!(true);
        config["add_eos_token"] = json!(true);
    });
    load(copy.path()).unwrap();
    copy.edit("tokenizer.json", |tokenizer| tokenizer["post_processor"] = json!(null));
    let text = copy.refusal();
    assert!(text.contains("add_bos_token") && text.contains("<bos>") && text.contains("save_pretrained"), "{text}");
    copy.edit("tokenizer_config.json", |config| config["add_bos_token"] = json!(false));
    let text = copy.refusal();
    assert!(text.contains("add_eos_token") && text.contains("<eos>"), "{text}");
}

#[test]
fn vectors_are_cut_as_asked_and_the_cut_is_saved() {
    let mut encoder = load(&golden("encoder")).unwrap();
    let whole = vectors(&encoder, &["the sea"], Role::Passage);
    let unit = encoder.fingerprint().unwrap();
    assert!(encoder.is_normalized());
    for bad in [0, 25] {
        let error = encoder.truncate(bad).unwrap_err();
        assert!(error.to_string().contains(&format!("`{bad}`")) && error.to_string().contains("24"), "{error}");
    }
    encoder.truncate(7).unwrap();
    assert_eq!((encoder.dim(), encoder.is_normalized()), (7, false));
    let cut = vectors(&encoder, &["the sea"], Role::Passage);
    assert_eq!(bits(&cut), bits(&whole.narrow(1, 0, 7).unwrap()));
    let root = tempfile::tempdir().unwrap();
    encoder.save(&root.path().join("cut")).unwrap();
    let again = load(&root.path().join("cut")).unwrap();
    assert_eq!((again.dim(), bits(&vectors(&again, &["the sea"], Role::Passage))), (7, bits(&cut)));
    let new = again.fingerprint().unwrap();
    let different: Vec<&String> = unit.keys().filter(|key| unit[*key] != new[*key]).collect();
    assert_eq!(different, ["dim"]);
    encoder.truncate(24).unwrap();
    assert_eq!(encoder.fingerprint().unwrap(), unit, "cut to the whole width is not cut");
    assert!(encoder.is_normalized());
}

#[test]
fn a_model_card_is_kept_with_one_note_and_made_where_there_was_none() {
    let root = tempfile::tempdir().unwrap();
    let card = |encoder: &Encoder| {
        let dir = root.path().join("saved");
        encoder.save(&dir).unwrap();
        (fs::read_to_string(dir.join("README.md")).unwrap(), load(&dir).unwrap())
    };
    let copy = Copy::new();
    let (made, again) = card(&load(copy.path()).unwrap());
    assert!(made.contains("# An encoder saved by ragtune") && made.contains("`bert` of 2 layers"), "{made}");
    assert_eq!(card(&again).0, made);
    fs::write(copy.path().join("README.md"), "# My model\n\nIt is good.\n").unwrap();
    let (kept, again) = card(&load(copy.path()).unwrap());
    assert!(kept.starts_with("# My model\n\nIt is good.\n\n## Saved by ragtune\n"), "{kept}");
    assert_eq!(card(&again).0, kept);
}
