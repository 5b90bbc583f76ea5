//! Ways to hold a generator in less memory: its frozen matrices in fewer bits, and the inside of its layers computed twice.

use candle_core::backprop::GradStore;

use super::Generator;
use crate::error::{Error, Result};
use crate::models::checkpointing::Tape;
use crate::models::nn::Format;

impl Generator {
    /// Keeps the matrices of all layers, frozen from now on, in fewer bits (QLoRA, arXiv 2305.14314): embedding, output
    /// layer, norms and biases stay f32. An adapter goes on top afterwards or before; without one the generator can answer
    /// but not train. A second call and merged adapters are errors.
    pub fn quantise(&mut self, format: Format) -> Result<()> {
        if let Some((name, packed)) = self.params.quantised().next() {
            return Err(Error::new(format!("`{name}` is kept as {} already", packed.format().name()))
                .hint("load the generator again to keep it in another format"));
        }
        let root = self.decoder.causal_root();
        let config = self.config();
        let names: std::collections::BTreeSet<String> = (0..config.layers)
            .flat_map(|layer| {
                let linears = config.linears().into_iter();
                linears.map(move |linear| format!("{root}layers.{layer}.{}.weight", linear.path))
            })
            .collect();
        self.params.quantise(format, &self.device, |name| names.contains(name))
    }

    /// Undoes [`Generator::quantise`], except that the rounding stays.
    pub fn dequantise(&mut self) -> Result<()> {
        self.params.dequantise()
    }

    /// Whether passes with gradients compute the inside of each layer twice instead of keeping it (arXiv 1604.06174). Their
    /// gradients are then complete only after [`Generator::finish_backward`].
    pub fn set_checkpointing(&mut self, on: bool) {
        self.tape = on.then(Tape::default);
    }

    /// Completes the gradients of `loss.backward()`; without checkpointing there is nothing to do.
    pub fn finish_backward(&self, gradients: &mut GradStore) -> Result<()> {
        match &self.tape {
            Some(tape) => tape.finish(gradients),
            None => Ok(()),
        }
    }

    pub(super) fn tape(&self) -> Option<&Tape> {
        self.tape.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{Device, Tensor};

    use super::*;
    use crate::models::generator::Scored;
    use crate::models::lora::LoraConfig;
    use crate::models::{Grad, nn};

    fn generator() -> Generator {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/qa-llama");
        Generator::load(&dir, &Device::Cpu).unwrap()
    }

    fn answers(generator: &Generator) -> Vec<Scored> {
        let ids = |text: &str| generator.prompt_ids(text).unwrap();
        let (one, two) = (ids("who wrote it? it was written by Ada. Ada"), ids("when? in 1851 and later"));
        vec![Scored { answer_start: one.len() - 2, ids: one }, Scored { answer_start: two.len() - 3, ids: two }]
    }

    /// Σ log p and the gradients of everything that trains, by name.
    fn gradients(generator: &Generator) -> (f32, Vec<(String, Tensor)>) {
        let (log_probs, _) = generator.answer_log_probs(&answers(generator), Grad::On).unwrap();
        let loss = log_probs.sum_all().unwrap();
        let mut gradients = loss.backward().unwrap();
        generator.finish_backward(&mut gradients).unwrap();
        let of = |(name, var): (&str, &candle_core::Var)| {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
            (name.to_owned(), gradient.clone())
        };
        (loss.to_scalar().unwrap(), generator.params().trainable().map(of).collect())
    }

    fn norm(t: &Tensor) -> f32 {
        t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt()
    }

    fn adapted(generator: &mut Generator) {
        let config = LoraConfig { rank: 4, targets: vec!["all-linear".into()], ..LoraConfig::default() };
        generator.add_lora(&config, 3).unwrap();
        // B begins as 0, where A has no gradient: a step away from there everything has one.
        for (name, var) in generator.params().trainable().filter(|(name, _)| name.contains("lora_B")) {
            let bump = (var.ones_like().unwrap() * (0.01 + name.len() as f64 * 1e-4)).unwrap();
            var.set(&bump).unwrap();
        }
    }

    #[test]
    fn layers_computed_twice_give_the_same_gradients() {
        for lora in [false, true] {
            let mut generator = generator();
            if lora {
                adapted(&mut generator);
            }
            let (loss, want) = gradients(&generator);
            generator.set_checkpointing(true);
            let (again, got) = gradients(&generator);
            assert_eq!(loss, again);
            assert_eq!(want.len(), got.len());
            for ((name, want), (_, got)) in want.iter().zip(&got) {
                let error = norm(&(got - want).unwrap());
                assert!(error <= 1e-5 * norm(want), "lora {lora}: {name}: {error} of {}", norm(want));
            }
        }
    }

    /// The adapter trains on the rounded base exactly as on an f32 base that holds the rounded numbers.
    #[test]
    fn an_adapter_on_quantised_matrices_trains_as_on_what_they_stand_for() {
        let formats = [(Format::Q8, 1e-4), (Format::Q4, 1e-4), (Format::F16, 1e-4), (Format::Bf16, 0.05)];
        for (format, tolerance) in formats {
            let mut packed = generator();
            // Portable layers round the results of bf16 products too.
            let rounded =
                format == Format::Bf16 && packed.params().iter().any(|(_, param)| nn::is_portable(&param.var));
            let tolerance = if rounded { 0.08 } else { tolerance };
            packed.quantise(format).unwrap();
            let dense = generator();
            for (name, weight) in packed.params().quantised() {
                dense.params().get(name).unwrap().var.set(&weight.dequantise().unwrap()).unwrap();
            }
            let mut dense = dense;
            let before = packed.params().digest_of(|name| !name.contains("lora")).unwrap();
            adapted(&mut packed);
            adapted(&mut dense);
            let ((got_loss, got), (want_loss, want)) = (gradients(&packed), gradients(&dense));
            assert!(
                (got_loss - want_loss).abs() <= tolerance * want_loss.abs(),
                "{}: {got_loss} {want_loss}",
                format.name()
            );
            assert_eq!(got.len(), want.len());
            for ((name, want), (_, got)) in want.iter().zip(&got) {
                let error = norm(&(got - want).unwrap());
                assert!(error <= tolerance * norm(want) + 1e-6, "{}: {name}: {error} of {}", format.name(), norm(want));
            }
            assert!(packed.params().bytes() < dense.params().bytes() || format == Format::Bf16);
            assert_eq!(before, packed.params().digest_of(|name| !name.contains("lora")).unwrap());
            let answers = packed.greedy(&[packed.prompt_ids("who wrote it?").unwrap()], 4, &[]).unwrap();
            assert_eq!(answers[0].len(), 4);
            assert!(packed.quantise(format).unwrap_err().to_string().contains("already"));
            assert!(packed.merge_lora().unwrap_err().find_hint().is_some());
            packed.dequantise().unwrap();
            packed.merge_lora().unwrap();
            dense.merge_lora().unwrap();
            assert_eq!(packed.params().digest().unwrap(), dense.params().digest().unwrap(), "{}", format.name());
        }
    }

    /// Layers computed twice and matrices in fewer bits, out of candle's operations as on another device.
    #[test]
    fn the_same_on_portable_layers() {
        nn::portably(|| {
            layers_computed_twice_give_the_same_gradients();
            an_adapter_on_quantised_matrices_trains_as_on_what_they_stand_for();
        });
    }

    #[test]
    fn loading_in_fewer_bits_is_loading_and_keeping_in_fewer_bits() {
        let mut later = generator();
        later.quantise(Format::Q8).unwrap();
        let now = Generator::load_as(later.origin(), &Device::Cpu, Some(Format::Q8)).unwrap();
        assert_eq!(now.params().digest().unwrap(), later.params().digest().unwrap());
        assert!(now.params().quantised().count() > 0 && now.device().is_cpu());
    }
}
