//! What passes over an encoder keep in memory, by formula: every tensor of a layer that the backward pass reads counts once.

use super::Encoder;

const F32: f64 = 4.0;

impl Encoder {
    /// Bytes that a pass with gradients over `tokens` tokens keeps until its backward pass is done.
    pub fn activation_bytes(&self, tokens: f64) -> f64 {
        let layers = self.layers() as f64 * self.backbone.kept_numbers();
        F32 * tokens * (layers + self.backbone.dropped_numbers(self.rates) + 3.0 * self.backbone.hidden() as f64)
    }

    /// Bytes of a pass without gradients over `tokens` tokens: the inside of one layer at a time.
    pub fn inside_bytes(&self, tokens: f64) -> f64 {
        F32 * tokens * self.backbone.kept_numbers()
    }
}
