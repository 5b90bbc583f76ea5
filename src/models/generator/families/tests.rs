use serde_json::json;

use super::*;

fn sizes(family: &str) -> Value {
    json!({"model_type": family, "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12,
           "num_hidden_layers": 6, "num_attention_heads": 2})
}

fn with(family: &str, changes: Value) -> Result<GeneratorConfig> {
    let mut config = sizes(family);
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    parse(&config)
}

fn windows(config: &GeneratorConfig) -> Vec<Option<usize>> {
    config.kinds.iter().map(|kind| kind.window).collect()
}

#[test]
fn absent_keys_take_the_defaults_of_transformers() {
    let config = parse(&sizes("llama")).unwrap();
    assert_eq!((config.key_value_heads, config.head_dim, config.rotary, config.max_positions), (2, 4, 4, 2048));
    assert_eq!((config.norm_eps, config.rope_theta, config.activation), (1e-6, 10_000.0, Activation::Silu));
    assert!(!config.tied && !config.input_bias && config.rope_scaling == RopeScaling::None);
    assert_eq!(windows(&config), [None; 6]);

    let config = with("mistral", json!({"num_key_value_heads": null})).unwrap();
    assert_eq!((config.key_value_heads, config.max_positions, windows(&config)), (2, 131_072, vec![Some(4096); 6]));
    let config = with("qwen3", json!({"num_attention_heads": 32})).unwrap();
    assert_eq!((config.key_value_heads, config.head_dim, config.tied), (32, 128, false));
    let config = with("gemma2", json!({"num_attention_heads": 4})).unwrap();
    assert_eq!((config.head_dim, config.tied, config.activation), (256, true, Activation::GeluTanh));
    assert_eq!((config.attention_soft_cap, config.logit_soft_cap), (Some(50.0), Some(30.0)));
    assert_eq!((config.attention_scale, config.embedding_scale), (1.0 / 16.0, Some(8f64.sqrt())));
    let config = with("gemma3_text", json!({"num_attention_heads": 4})).unwrap();
    assert_eq!((config.rope_theta, config.rope_local_theta, config.logit_soft_cap), (1e6, 1e4, None));
    let config = with("gpt_neox", json!({"hidden_size": 16})).unwrap();
    assert_eq!((config.head_dim, config.rotary, config.norm_eps), (8, 2, 1e-5));
    assert!(config.parallel && config.input_bias && config.mlp_bias && config.norm == NormKind::Layer);
    let config = parse(&sizes("phi3")).unwrap();
    assert_eq!((config.max_positions, config.norm_eps, windows(&config)), (4096, 1e-5, vec![None; 6]));
    let config = with("smollm3", json!({"num_attention_heads": 4})).unwrap();
    assert!(config.tied && config.rope_theta == 2e6);
}

#[test]
fn windows_and_rotations_are_given_layer_by_layer() {
    let pattern = |config: &GeneratorConfig| -> String {
        let mark = |kind: &LayerKind| match (kind.window.is_some(), kind.rotation) {
            (true, Rotation::Local) => 'l',
            (true, Rotation::None) => 'n',
            (true, Rotation::Global) => 'w',
            (false, Rotation::None) => '0',
            (false, _) => '.',
        };
        config.kinds.iter().map(mark).collect()
    };
    let heads = |mut changes: Value| {
        changes["num_attention_heads"] = json!(4);
        changes["num_key_value_heads"] = json!(2);
        changes
    };
    let found = |family: &str, changes: Value| pattern(&with(family, heads(changes)).unwrap());
    assert_eq!(found("qwen2", json!({"sliding_window": 5})), "......");
    assert_eq!(
        found("qwen2", json!({"sliding_window": 5, "use_sliding_window": true, "max_window_layers": 4})),
        "....ww"
    );
    assert_eq!(found("gemma2", json!({})), "w.w.w.");
    assert_eq!(found("gemma3_text", json!({})), "lllll.");
    assert_eq!(found("gemma3_text", json!({"sliding_window_pattern": 2})), "l.l.l.");
    assert_eq!(found("smollm3", json!({})), "...0..");
    assert_eq!(found("smollm3", json!({"use_sliding_window": true, "sliding_window": 3})), "...n..");
    assert_eq!(found("smollm3", json!({"no_rope_layers": [0, 1, 1, 0, 1, 1]})), "0..0..");
    assert_eq!(found("mistral", json!({"sliding_window": null})), "......");
    assert_eq!(found("phi3", json!({"sliding_window": 9})), "wwwwww");
    let types = json!([
        "full_attention",
        "sliding_attention",
        "full_attention",
        "full_attention",
        "full_attention",
        "full_attention"
    ]);
    assert_eq!(found("gemma3_text", json!({"layer_types": types})), ".l....");
}

#[test]
fn newer_rope_parameters_are_understood() {
    let entries = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5});
    let config = with("llama", json!({"rope_parameters": entries})).unwrap();
    assert_eq!((config.rope_theta, config.rope_scaling), (5e5, RopeScaling::Linear { factor: 2.0 }));
    let entries = json!({"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5});
    let config = with("gpt_neox", json!({"rope_parameters": entries})).unwrap();
    assert_eq!((config.rope_theta, config.rotary), (2e4, 2));
    let entries = json!({"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 3e4}});
    let config = with("gemma3_text", json!({"rope_parameters": entries, "num_attention_heads": 4})).unwrap();
    assert_eq!((config.rope_theta, config.rope_local_theta), (2e6, 3e4));
    assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 8.0 });
}

#[test]
fn the_magnitude_of_stretched_angles_follows_from_the_lengths() {
    let magnitude = |family: &str, changes: Value| match with(family, changes).unwrap().rope_scaling {
        RopeScaling::Yarn { magnitude, .. } | RopeScaling::LongRope { magnitude, .. } => magnitude,
        other => panic!("{other:?}"),
    };
    let yarn = |entries: Value| {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0});
        scaling.as_object_mut().unwrap().extend(entries.as_object().unwrap().clone());
        magnitude("llama", json!({"rope_scaling": scaling}))
    };
    assert_eq!(yarn(json!({})), 0.1 * 4f64.ln() + 1.0);
    assert_eq!(yarn(json!({"attention_factor": 1.25})), 1.25);
    assert_eq!(yarn(json!({"mscale": 1.0, "mscale_all_dim": 1.0})), 1.0);
    let long = json!({"type": "su", "short_factor": [1, 2], "long_factor": [3, 4]});
    let stretched = json!({"rope_scaling": long, "max_position_embeddings": 16_384});
    assert_eq!(magnitude("phi3", stretched), (1.0 + 4f64.ln() / 4096f64.ln()).sqrt());
    assert_eq!(magnitude("phi3", json!({"rope_scaling": long})), 1.0);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (family, changes, named) in [
        (
            "llama",
            json!({"model_type": "mixtral"}),
            "`mixtral` is not supported, expected one of: llama, mistral, qwen2",
        ),
        ("llama", json!({"model_type": "gemma3"}), "gemma3_text"),
        ("llama", json!({"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}), "`spiral` is not supported"),
        ("llama", json!({"rope_scaling": {"type": "longrope"}}), "needs `short_factor`"),
        (
            "llama",
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}),
            "expected 2 above 0",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1]}}),
            "`attention_factor`",
        ),
        ("llama", json!({"rope_scaling": {"type": "linear"}}), "needs `factor`"),
        ("llama", json!({"rope_scaling": {"type": "dynamic"}}), "needs `factor`"),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear", "factor": "two"}}),
            "`factor` of rope scaling is `\"two\"`, expected a number",
        ),
        ("llama", json!({"rope_scaling": {"type": "linear", "factor": 0.0}}), "expected a number above 0"),
        ("llama", json!({"rope_theta": -1.0}), "`rope_theta` is `-1.0`"),
        ("llama", json!({"rms_norm_eps": -1.0}), "`rms_norm_eps` is `-1`"),
        ("llama", json!({"hidden_act": "mish"}), "`mish`"),
        ("llama", json!({"num_key_value_heads": 3}), "`3`, expected a divisor"),
        ("llama", json!({"num_attention_heads": 3}), "`8`, expected a multiple"),
        ("llama", json!({"head_dim": 3}), "`3`, expected an even number"),
        ("llama", json!({"num_hidden_layers": 0}), "`num_hidden_layers` is `0`"),
        ("llama", json!({"vocab_size": 0}), "`vocab_size` is `0`"),
        ("llama", json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        ("llama", json!({"num_local_experts": 8}), "`num_local_experts` is set"),
        ("llama", json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is `0.5`"),
        ("llama", json!({"vocab_size": "many"}), "`vocab_size` is `\"many\"`, expected a whole number"),
        ("llama", json!({"vocab_size": null}), "`vocab_size` is missing"),
        ("phi3", json!({"partial_rotary_factor": 0.25}), "rotates `1` of 4"),
        ("gpt_neox", json!({"rotary_pct": 1.5}), "at most 1"),
        ("mistral", json!({"sliding_window": 0, "num_key_value_heads": 2}), "`sliding_window` is `0`"),
        (
            "qwen2",
            json!({"layer_types": ["full_attention"], "num_key_value_heads": 2}),
            "`1` entries, expected one for each of 6",
        ),
        (
            "qwen2",
            json!({"layer_types": vec!["chunked_attention"; 6], "num_key_value_heads": 2}),
            "`chunked_attention`",
        ),
        (
            "qwen2",
            json!({"layer_types": vec!["sliding_attention"; 6], "num_key_value_heads": 2}),
            "no `sliding_window` is in use",
        ),
        ("smollm3", json!({"no_rope_layers": [1], "num_key_value_heads": 2}), "`no_rope_layers` has `1` entries"),
        (
            "gemma3_text",
            json!({"attn_logit_softcapping": 50.0, "num_key_value_heads": 2}),
            "`attn_logit_softcapping` is `50`",
        ),
        ("gemma2", json!({"hidden_activation": "tanh", "num_key_value_heads": 2}), "`hidden_activation` is `tanh`"),
    ] {
        let config = with(family, changes.clone());
        let message = match config {
            Err(error) => error.to_string(),
            Ok(config) => panic!("{changes} was accepted: {config:?}"),
        };
        assert!(message.contains(named), "{changes}: {message}");
    }
}
