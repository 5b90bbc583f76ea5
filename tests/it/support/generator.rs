//! A generator that is quick rather than good: two random layers over the tokenizer of the fixture generator, so that every
//! passage and every answer has tokens of its own.

use std::path::PathBuf;
use std::sync::OnceLock;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{TensorData, fixture, shared};

const VOCABULARY: usize = 6144;
const WIDTH: usize = 32;
const INNER: usize = 48;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KEY_VALUE_HEADS: usize = 2;

/// The folder of the small generator: grouped queries, an output layer of its own, 256 positions.
pub fn small_generator() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = shared().join("generator");
        std::fs::create_dir_all(&dir).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::copy(fixture("models/qa-llama").join(file), dir.join(file)).unwrap();
        }
        let mut prompt = super::json(&fixture("models/qa-llama/prompt.json"));
        prompt["max_prompt_tokens"] = 128.into();
        std::fs::write(dir.join("prompt.json"), prompt.to_string()).unwrap();
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": KEY_VALUE_HEADS, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "attention_bias": false,
            "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        });
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        TensorData::write(&dir.join("model.safetensors"), &tensors());
        dir
    })
    .clone()
}

fn tensors() -> Vec<(String, TensorData)> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut matrix = |rows: usize, columns: usize, scale: f32| {
        let values = (0..rows * columns).map(|_| scale * (random.random::<f32>() * 2.0 - 1.0)).collect();
        TensorData { shape: vec![rows, columns], values }
    };
    let head = WIDTH / HEADS;
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), matrix(VOCABULARY, WIDTH, 1.0)),
        ("lm_head.weight".to_owned(), matrix(VOCABULARY, WIDTH, 0.2)),
    ];
    for layer in 0..LAYERS {
        for (name, rows, columns) in [
            ("self_attn.q_proj", WIDTH, WIDTH),
            ("self_attn.k_proj", KEY_VALUE_HEADS * head, WIDTH),
            ("self_attn.v_proj", KEY_VALUE_HEADS * head, WIDTH),
            ("self_attn.o_proj", WIDTH, WIDTH),
            ("mlp.gate_proj", INNER, WIDTH),
            ("mlp.up_proj", INNER, WIDTH),
            ("mlp.down_proj", WIDTH, INNER),
        ] {
            all.push((format!("model.layers.{layer}.{name}.weight"), matrix(rows, columns, 0.3)));
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            all.push((format!("model.layers.{layer}.{name}.weight"), TensorData::ones(WIDTH)));
        }
    }
    all.push(("model.norm.weight".to_owned(), TensorData::ones(WIDTH)));
    all
}
