//! What passes over a generator keep in memory, by formula: every tensor of a layer that the backward pass reads counts once.

use super::Generator;
use super::config::{FeedForward, GeneratorConfig, QueryKeyValue};

const F32: f64 = 4.0;
/// Logits that exist at a time, twice in a backward pass.
const LOGITS: f64 = 8.0 * 1024.0 * 1024.0;

/// Numbers a token that one layer keeps: inputs and results of norms, projections, rotation, attention, activation and sums.
pub(in crate::models) fn kept_numbers(config: &GeneratorConfig) -> f64 {
    let (d, i) = (config.hidden as f64, config.intermediate as f64);
    let (q, k) = (config.query_width() as f64, config.key_width() as f64);
    let mut numbers = 7.0 * d + 3.0 * q + 3.0 * k;
    numbers += match config.query_key_value {
        QueryKeyValue::Split => 0.0,
        // The fused result stays beside its parts.
        QueryKeyValue::Joined | QueryKeyValue::JoinedByHead => q + 2.0 * k,
    };
    numbers += match config.feed_forward {
        FeedForward::Gated => 3.0 * i,
        FeedForward::GatedJoined => 5.0 * i,
        FeedForward::Plain => 2.0 * i,
    };
    if config.query_key_norm {
        numbers += q + k;
    }
    if config.norms_after {
        numbers += 2.0 * d;
    }
    numbers
}

impl Generator {
    /// Bytes that a pass with gradients over `tokens` tokens, `targets` of them of answers, keeps until its backward pass is done.
    pub fn activation_bytes(&self, tokens: f64, targets: f64) -> f64 {
        let (config, layers) = (self.config(), self.config().layers as f64);
        let inside = kept_numbers(config);
        let kept = match self.tape() {
            // What goes into every layer, and the inside of one with a part of its gradients (the quarter is measured).
            Some(_) => layers * config.hidden as f64 + 1.25 * inside,
            None => layers * inside,
        };
        // Where something is dropped, what went in stays beside what came out.
        let [embedding, attended, feed_forward] = [self.rates.embedding, self.rates.attended, self.rates.feed_forward]
            .map(|rate| if rate.unwrap_or(0.0) > 0.0 { config.hidden as f64 } else { 0.0 });
        let dropped = embedding + (attended + feed_forward) * if self.tape().is_some() { 1.0 } else { layers };
        F32 * tokens * (kept + dropped) + self.logit_bytes(targets)
    }

    /// Bytes of a pass without gradients over `tokens` tokens, `targets` of them of answers: the inside of one layer at a time.
    pub fn inside_bytes(&self, tokens: f64, targets: f64) -> f64 {
        F32 * tokens * kept_numbers(self.config()) + self.logit_bytes(targets)
    }

    fn logit_bytes(&self, targets: f64) -> f64 {
        2.0 * F32 * (targets * self.config().vocabulary as f64).min(LOGITS)
    }

    /// Bytes of continuing `sequences` prompts of so many tokens, the longest of `longest`, by so many new ones: cached keys and
    /// values, for which every row has the room of the longest, and reading.
    pub fn decoding_bytes(&self, sequences: usize, prompt: f64, longest: f64, new: f64) -> f64 {
        let config = self.config();
        let sequences = sequences as f64;
        let cache = 2.0 * (config.layers * config.key_width()) as f64 * sequences * (longest + new);
        F32 * cache + self.inside_bytes(sequences * prompt, sequences)
    }
}
