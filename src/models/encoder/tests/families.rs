//! Every family against sentence-transformers: ids, vectors, all gradients, and its folder saved and read again.

use std::collections::HashMap;

use super::*;
use crate::models::Precision;

/// Cases of fixtures/golden/encoder_families.py: name, modules, width of a vector, unit length.
const CASES: [(&str, &[&str], usize, bool); 8] = [
    ("roberta", &["Transformer", "Pooling", "Normalize"], 32, true),
    ("mpnet", &["Transformer", "Pooling", "Dense", "LayerNorm", "Normalize"], 24, true),
    ("distilbert", &["Transformer", "Pooling"], 64, false),
    ("modernbert", &["Transformer", "Pooling", "Normalize"], 20, false),
    ("modernbert-bias", &["Transformer", "Pooling"], 16, false),
    ("llama", &["Transformer", "Pooling", "Normalize"], 32, true),
    ("qwen3", &["Transformer", "Pooling", "Dense"], 16, false),
    ("gemma3_text", &["Transformer", "Pooling", "Dense", "Dense", "Normalize"], 20, true),
];

pub(super) const ROLES: [(Role, &str); 2] = [(Role::Question, "question"), (Role::Passage, "passage")];

pub(super) fn folder(case: &str) -> PathBuf {
    golden("encoder_families").join(case)
}

pub(super) fn numbers() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(golden("encoder_families.safetensors"), &Device::Cpu).unwrap()
}

pub(super) fn embed(encoder: &Encoder, texts: &[&str], role: Role) -> Tensor {
    encoder.forward_as(&encoder.tokenize(texts, role).unwrap().ids, role, Grad::Off).unwrap()
}

#[test]
fn ids_vectors_and_all_gradients_of_every_family_equal_sentence_transformers() {
    let (listing, expected) = (json_of(&golden("encoder_families.json")), numbers());
    for (case, modules, dim, normalized) in CASES {
        let mut encoder = load(&folder(case)).unwrap();
        assert_eq!(encoder.family(), case.split('-').next().unwrap());
        assert_eq!((encoder.module_names(), encoder.dim()), (modules.to_vec(), dim), "{case}");
        assert_eq!(encoder.is_normalized(), normalized, "{case}");
        assert!(encoder.layers() >= 2);
        for (role, name) in ROLES {
            let ids = encoder.tokenize(&texts(&listing), role).unwrap().ids;
            assert_eq!(json!(ids), listing[case][name], "{case} {name}");
            let got = values(&encoder.forward_as(&ids, role, Grad::Off).unwrap());
            let error = largest_difference(&got, &values(&expected[&format!("{case}/{name}")]));
            assert!(error < 1e-5, "{case} {name}: {error}");
        }
        // Everything may train: what then has no gradient is what has no part in a vector.
        encoder.params_mut().set_trainable(|_| true);
        let ids = encoder.tokenize(&texts(&listing), Role::Passage).unwrap().ids;
        let vectors = encoder.forward_as(&ids, Role::Passage, Grad::On).unwrap();
        let got = gradients_of(&encoder, &(vectors * &expected[&format!("{case}/r")]).unwrap());
        let missing: Vec<&str> = encoder.params().names().filter(|name| !got.contains_key(*name)).collect();
        assert_eq!(missing, encoder.unused(), "{case}");
        assert!(missing.iter().all(|name| name.starts_with("pooler.")), "{case}: {missing:?}");
        assert_gradients(case, &got, &named(&expected, &format!("{case}/d.")));
    }
}

#[test]
fn a_saved_encoder_of_every_family_loads_to_the_same_bits() {
    let sentences = ["the river runs", "", "who wrote it of old"];
    for (case, ..) in CASES {
        let encoder = load(&folder(case)).unwrap();
        // As after training: the saved numbers are those in memory.
        for (_, param) in encoder.params().iter().filter(|(name, _)| name.contains("linear") || name.contains("norm")) {
            param.var.set(&(param.var.as_detached_tensor() * 1.25).unwrap()).unwrap();
        }
        let root = tempfile::tempdir().unwrap();
        encoder.save(&root.path().join("one")).unwrap();
        let again = load(&root.path().join("one")).unwrap();
        assert_eq!(encoder.fingerprint().unwrap(), again.fingerprint().unwrap(), "{case}");
        assert_eq!(encoder.prompts(), again.prompts());
        for (role, _) in ROLES {
            assert_eq!(bits(&embed(&encoder, &sentences, role)), bits(&embed(&again, &sentences, role)), "{case}");
        }
        again.save(&root.path().join("two")).unwrap();
        for file in ["README.md", "config.json", "modules.json", "1_Pooling/config.json", "model.safetensors"] {
            let read = |dir: &str| fs::read(root.path().join(dir).join(file)).unwrap();
            assert_eq!(read("one"), read("two"), "{case} {file}");
        }
        let class = json_of(&root.path().join("one/config.json"))["architectures"][0].clone();
        assert!(class.as_str().unwrap().ends_with("Model"), "{case}: {class}");
    }
}

#[test]
fn a_vector_of_any_family_does_not_depend_on_its_batch() {
    let listing = json_of(&golden("encoder_families.json"));
    for (case, ..) in CASES {
        let encoder = load(&folder(case)).unwrap();
        let together = embed(&encoder, &texts(&listing), Role::Passage).to_vec2::<f32>().unwrap();
        for (text, row) in texts(&listing).into_iter().zip(together) {
            let row: Vec<f64> = row.into_iter().map(f64::from).collect();
            let error = largest_difference(&values(&embed(&encoder, &[text], Role::Passage)), &row);
            assert!(error < 1e-5, "{case} `{text}`: {error}");
        }
    }
}

#[test]
fn xlm_roberta_and_camembert_are_roberta_under_other_names() {
    let original = load(&folder("roberta")).unwrap();
    for model_type in ["xlm-roberta", "camembert"] {
        let copy = Copy::of(&folder("roberta"));
        let encoder = load(copy.edit("config.json", |config| config["model_type"] = json!(model_type)).path()).unwrap();
        assert_eq!(encoder.family(), model_type);
        let sentence = ["the old river"];
        let of = |encoder: &Encoder| bits(&embed(encoder, &sentence, Role::Question));
        assert_eq!(of(&original), of(&encoder));
    }
}

#[test]
fn a_padding_token_inside_a_text_takes_no_position_of_its_own() {
    let encoder = load(&folder("roberta")).unwrap();
    let got = embed(&encoder, &["the sea <pad> the old <pad> river"], Role::Question);
    let error = largest_difference(&values(&got), &values(&numbers()["padding"]));
    assert!(error < 1e-5, "{error}");
}

/// As EmbeddingGemma.
#[test]
fn a_decoder_that_looks_both_ways_sees_what_comes_later() {
    let both = Copy::of(&folder("gemma3_text"));
    // The first token alone is what is pooled.
    both.edit("1_Pooling/config.json", |pooling| {
        *pooling = json!({"word_embedding_dimension": 32, "pooling_mode_cls_token": true});
    });
    let first = |copy: &Copy, text: &str| bits(&embed(&load(copy.path()).unwrap(), &[text], Role::Passage));
    let (one, other) = ("the sea ran to a stone", "the sea ran to a river");
    assert_ne!(first(&both, one), first(&both, other));
    both.edit("config.json", |config| config["use_bidirectional_attention"] = json!(false));
    assert_eq!(first(&both, one), first(&both, other));
}

#[test]
fn checkpoints_with_heads_are_stripped_to_the_transformer() {
    let heads: [(&str, &str, &[&str]); 5] = [
        ("roberta", "roberta.", &["lm_head.dense.weight", "classifier.out_proj.bias", "qa_outputs.bias"]),
        ("mpnet", "mpnet.", &["lm_head.bias", "qa_outputs.weight"]),
        ("distilbert", "distilbert.", &["vocab_transform.weight", "vocab_layer_norm.bias", "vocab_projector.bias"]),
        ("modernbert", "model.", &["head.dense.weight", "head.norm.weight", "decoder.bias"]),
        ("llama", "model.", &["lm_head.weight"]),
    ];
    for (case, prefix, extra) in heads {
        let expected = embed(&load(&folder(case)).unwrap(), &["the sea"], Role::Passage);
        let copy = Copy::of(&folder(case));
        copy.tensors(|all| {
            *all = std::mem::take(all).into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
            for name in extra {
                all.insert((*name).to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
            }
        });
        let encoder = load(copy.path()).unwrap();
        assert_eq!(bits(&embed(&encoder, &["the sea"], Role::Passage)), bits(&expected), "{case}");
        for name in extra {
            assert!(encoder.unused().iter().any(|unused| unused == name), "{case}: {name}");
        }
        copy.tensors(|all| {
            all.insert("surprise.weight".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
        });
        assert!(copy.refusal().contains("surprise.weight"), "{case}");
    }
}

#[test]
fn settings_of_a_family_that_are_not_supported_are_refused_by_name() {
    let refused: [(&str, &str, Change, &str); 15] = [
        ("roberta", "max_position_embeddings", |c| c["max_position_embeddings"] = json!(2), "padding"),
        ("roberta", "pad_token_id", |c| c["pad_token_id"] = json!("one"), "whole number"),
        ("roberta", "add_cross_attention", |c| c["add_cross_attention"] = json!(true), "false"),
        ("mpnet", "relative_attention_num_buckets", |c| c["relative_attention_num_buckets"] = json!(64), "32"),
        ("mpnet", "layer_norm_eps", |c| c["layer_norm_eps"] = json!(-1.0), "above 0"),
        ("distilbert", "activation", |c| c["activation"] = json!("mish"), "relu"),
        ("distilbert", "n_heads", |c| c["n_heads"] = json!(5), "32"),
        ("modernbert", "hidden_activation", |c| c["hidden_activation"] = json!("mish"), "gelu"),
        ("modernbert", "num_attention_heads", |c| c["num_attention_heads"] = json!(3), "32"),
        ("modernbert", "rope_scaling", |c| c["rope_scaling"] = json!({"rope_type": "yarn"}), "global_rope_theta"),
        ("modernbert", "global_attn_every_n_layers", |c| c["global_attn_every_n_layers"] = json!(0), "at least 1"),
        ("modernbert", "norm_bias", |c| c["norm_bias"] = json!("yes"), "`true`"),
        ("llama", "use_bidirectional_attention", |c| c["use_bidirectional_attention"] = json!(true), "false"),
        (
            "gemma3_text",
            "use_bidirectional_attention",
            |c| c["use_bidirectional_attention"] = json!("all"),
            "true or false",
        ),
        ("qwen3", "is_causal", |c| c["is_causal"] = json!(false), "true"),
    ];
    for (case, key, change, expected) in refused {
        let copy = Copy::of(&folder(case));
        let text = copy.edit("config.json", change).refusal();
        for part in [key, expected, "supported model types"] {
            assert!(text.contains(part), "{case}: `{text}` should say `{part}`");
        }
    }
    let biased = Copy::of(&folder("modernbert"));
    let text = biased.edit("config.json", |config| config["mlp_bias"] = json!(true)).refusal();
    assert!(text.contains("layers.0.mlp.Wi.bias") && text.contains("missing"), "{text}");
}

#[test]
fn settings_that_no_shape_shows_are_in_the_fingerprint() {
    let changes: [(&str, Change); 8] = [
        ("roberta", |c| c["layer_norm_eps"] = json!(1e-6)),
        ("roberta", |c| c["hidden_act"] = json!("relu")),
        ("distilbert", |c| c["n_heads"] = json!(2)),
        ("modernbert", |c| c["local_rope_theta"] = json!(50.0)),
        ("modernbert", |c| c["local_rope_theta"] = json!(null)),
        ("modernbert", |c| c["local_attention"] = json!(4)),
        ("modernbert", |c| c["global_attn_every_n_layers"] = json!(2)),
        ("llama", |c| c["rms_norm_eps"] = json!(1e-3)),
    ];
    for (case, change) in changes {
        let (original, copy) = (load(&folder(case)).unwrap(), Copy::of(&folder(case)));
        let changed = load(copy.edit("config.json", change).path()).unwrap();
        let (old, new) = (original.fingerprint().unwrap(), changed.fingerprint().unwrap());
        let different: Vec<&String> = old.keys().filter(|key| old[*key] != new[*key]).collect();
        assert_eq!(different, ["architecture"], "{case}: {} {}", old["architecture"], new["architecture"]);
        let of = |encoder: &Encoder| bits(&embed(encoder, &["the old sea ran in a stone to it"], Role::Question));
        assert_ne!(of(&original), of(&changed), "{case}: {}", new["architecture"]);
    }
}

#[test]
fn flops_follow_what_a_layer_sees() {
    // Layers 0 and 3 see all tokens, 1 and 2 three to either side.
    let modern = load(&folder("modernbert")).unwrap();
    let weights = modern.non_embedding_parameters() as f64;
    let attention = |tokens: f64| 4.0 * 32.0 * tokens * (2.0 * tokens + 2.0 * tokens.min(7.0));
    assert_eq!(modern.forward_flops(&[5, 20]), 50.0 * weights + attention(5.0) + attention(20.0));
    let llama = load(&folder("llama")).unwrap();
    let weights = llama.non_embedding_parameters() as f64;
    assert_eq!(llama.forward_flops(&[10]), 20.0 * weights + 2.0 * 2.0 * 32.0 * 100.0);
    // Whose tokens see both sides: all pairs.
    let gemma = load(&folder("gemma3_text")).unwrap();
    let layers = gemma.non_embedding_parameters() as f64 - (32 * 48 + 48 * 20) as f64;
    let dense = 2.0 * (32 * 48 + 48 * 20) as f64;
    assert_eq!(gemma.forward_flops(&[10]), 20.0 * layers + 4.0 * 3.0 * 32.0 * 100.0 + dense);
    // A Dense module sees a text once, however long.
    let qwen = load(&folder("qwen3")).unwrap();
    let layers = qwen.non_embedding_parameters() as f64 - 512.0;
    assert_eq!(qwen.forward_flops(&[10]), 20.0 * layers + 2.0 * 2.0 * 32.0 * 100.0 + 2.0 * 512.0);
}

#[test]
fn rounded_matrices_change_a_vector_of_any_family_little() {
    let listing = json_of(&golden("encoder_families.json"));
    for (case, ..) in CASES {
        let encoder = load(&folder(case)).unwrap();
        let ids = encoder.tokenize(&texts(&listing), Role::Passage).unwrap().ids;
        let exact = encoder.forward_as(&ids, Role::Passage, Grad::Off).unwrap();
        for precision in Precision::ALL {
            let got = encoder.rounded(precision).unwrap().forward(&ids, Role::Passage).unwrap();
            if precision == Precision::F32 {
                assert_eq!(bits(&got), bits(&exact), "{case}");
            }
            let (got, want) = (values(&got), values(&exact));
            let cosine = got.iter().zip(&want).map(|(a, b)| a * b).sum::<f64>() / (norm(&got) * norm(&want));
            assert!(cosine > 0.99, "{case} {}: {cosine}", precision.name());
        }
    }
}

/// The same numbers out of candle's operations, as on another device.
#[test]
fn every_family_is_the_same_on_portable_layers() {
    nn::portably(|| {
        ids_vectors_and_all_gradients_of_every_family_equal_sentence_transformers();
        a_vector_of_any_family_does_not_depend_on_its_batch();
        a_padding_token_inside_a_text_takes_no_position_of_its_own();
        rounded_matrices_change_a_vector_of_any_family_little();
    });
}
