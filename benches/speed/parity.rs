//! `parity`: the golden numbers of PyTorch and transformers, computed on the chosen device: every family of generators and
//! encoders, their gradients, adapters, decoding, matrices in fewer bits, and steps of the optimiser. Run from the repository.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, backprop::GradStore};
use ragtune::error::{Context, Error, Result};
use ragtune::models::encoder::Encoder;
use ragtune::models::generator::{Generator, Scored};
use ragtune::models::nn::{Format, with_values};
use ragtune::models::params::Params;
use ragtune::models::weights::Weights;
use ragtune::models::{Grad, Role};
use ragtune::train::optimizer::{self, AdamW, AdamWConfig};
use serde::Deserialize;
use serde_json::Value;

use crate::Common;
use crate::measure::Line;

/// Largest difference of an output, and of a gradient relative to the largest number of its tensor: with all digits, and with
/// products whose inputs are rounded to TF32 (10 bits of a fraction).
const TOLERANCES: [(f64, f64); 2] = [(5e-5, 5e-4), (2e-2, 1e-1)];
/// What gradients that are not 0 reach in these models.
const LEAST: f64 = 1e-2;
/// Relative difference of a loss on the device from that on the CPU, with matrices in this format on both.
const FORMATS: [(Format, f64); 4] = [(Format::F16, 1e-4), (Format::Q8, 1e-4), (Format::Q4, 1e-4), (Format::Bf16, 2e-2)];

#[derive(Deserialize)]
struct Golden {
    sequences: Vec<Row>,
    greedy: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Row {
    ids: Vec<u32>,
    answer_start: usize,
}

/// What was found so far.
struct Report {
    device: Device,
    tolerance: (f64, f64),
    rounded: bool,
    cases: usize,
    output: f64,
    gradient: f64,
    failed: Vec<String>,
}

/// Measures nothing but differences; an error when one is too large.
pub fn measure(common: &Common) -> Result<Line> {
    let line = Line::begin("parity", "cases");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden");
    let mut report = Report {
        device: common.device()?,
        tolerance: TOLERANCES[usize::from(common.tf32)],
        rounded: common.tf32,
        cases: 0,
        output: 0.0,
        gradient: 0.0,
        failed: Vec::new(),
    };
    for dir in folders(&root.join("generator"))?.into_iter().chain(folders(&root.join("generator_families"))?) {
        // A decoder without an output layer has other numbers.
        let numbers = dir.join("golden.safetensors");
        if numbers.is_file() && Weights::read_file(&numbers, &Device::Cpu)?.contains("log_probs") {
            let generator = Generator::load(&dir, &report.device)?;
            report.generator(&dir, &generator)?;
        }
    }
    for (adapter, base) in [("all-linear", "generator/tied"), ("phi3-joined", "generator_families/phi3")] {
        let mut generator = Generator::load(&root.join(base), &report.device)?;
        generator.load_adapter(&root.join("lora").join(adapter))?;
        report.generator(&root.join("lora").join(adapter), &generator)?;
    }
    report.encoders(&root)?;
    report.formats(&root)?;
    report.optimiser(&root)?;
    if !report.failed.is_empty() {
        return Err(Error::new(format!("parity failed: {}", report.failed.join("; ")))
            .hint("the same numbers hold on the CPU: report the device, its driver and this message"));
    }
    Ok(line
        .found("cases", report.cases)
        .found("device", common.device.as_str())
        .found("largest_output_difference", report.output)
        .found("largest_relative_gradient_difference", report.gradient)
        .found("tolerances", vec![report.tolerance.0, report.tolerance.1]))
}

impl Report {
    fn output(&mut self, what: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
        let difference = difference(found, expected)?;
        self.output = self.output.max(difference);
        self.judge(what, difference, self.tolerance.0);
        Ok(())
    }

    fn gradient(&mut self, what: &str, found: Option<&Tensor>, expected: &Tensor) -> Result<()> {
        let Some(found) = found else {
            self.failed.push(format!("{what} has no gradient"));
            return Ok(());
        };
        // The gradient of a key's bias is 0 but for rounding: such a tensor is held against what others have at least.
        let relative = difference(found, expected)? / largest(expected)?.max(LEAST);
        self.gradient = self.gradient.max(relative);
        self.judge(what, relative, self.tolerance.1);
        Ok(())
    }

    fn judge(&mut self, what: &str, difference: f64, most: f64) {
        if difference > most || difference.is_nan() {
            self.failed.push(format!("{what} differs by {difference:.1e}, expected at most {most:.0e}"));
        }
    }

    fn gradients(
        &mut self,
        what: &str,
        params: &Params,
        store: &GradStore,
        golden: &mut Weights,
        prefix: &str,
    ) -> Result<()> {
        for (name, var) in params.trainable() {
            if let Some(expected) = golden.take_any(&format!("{prefix}{name}"))? {
                self.gradient(&format!("{what}: gradient of {name}"), store.get(var.as_tensor()), &expected)?;
            }
        }
        Ok(())
    }

    fn generator(&mut self, dir: &Path, generator: &Generator) -> Result<()> {
        self.cases += 1;
        let what = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (golden, mut tensors) = (golden(dir)?, Weights::read_file(&dir.join("golden.safetensors"), &Device::Cpu)?);
        let (log_probs, _) = generator.answer_log_probs(&scored(&golden), Grad::On)?;
        self.output(&format!("{what}: log-probabilities"), &log_probs, &wanted(&mut tensors, "log_probs")?)?;
        let weights = wanted(&mut tensors, "weights")?.to_device(&self.device)?;
        let store = (log_probs * weights)?.sum_all()?.backward()?;
        self.gradients(&what, generator.params(), &store, &mut tensors, "grad.")?;
        let prompts: Vec<Vec<u32>> = golden.sequences.iter().map(|row| row.ids.clone()).collect();
        // Rounded products may choose another of two tokens that are nearly as likely.
        if !self.rounded && generator.greedy(&prompts, 12, &[2])? != golden.greedy {
            self.failed.push(format!("{what}: other tokens were written than transformers writes"));
        }
        Ok(())
    }

    fn encoders(&mut self, root: &Path) -> Result<()> {
        let listing: Value = json(&root.join("encoder_families.json"))?;
        let mut expected = Weights::read_file(&root.join("encoder_families.safetensors"), &Device::Cpu)?;
        for dir in folders(&root.join("encoder_families"))? {
            let case = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Ok(ids) = serde_json::from_value::<Vec<Vec<u32>>>(listing[&case]["passage"].clone()) else { continue };
            self.cases += 1;
            let mut encoder = Encoder::load(&dir, &self.device)?;
            encoder.params_mut().set_trainable(|_| true);
            let vectors = encoder.forward_as(&ids, Role::Passage, Grad::On)?;
            self.output(&format!("{case}: vectors"), &vectors, &wanted(&mut expected, &format!("{case}/passage"))?)?;
            let weights = wanted(&mut expected, &format!("{case}/r"))?.to_device(&self.device)?;
            let store = (vectors * weights)?.sum_all()?.backward()?;
            self.gradients(&case, encoder.params(), &store, &mut expected, &format!("{case}/d."))?;
        }
        Ok(())
    }

    /// Matrices in fewer bits: the loss and where its gradient points, as on the CPU.
    fn formats(&mut self, root: &Path) -> Result<()> {
        let dir = root.parent().unwrap_or(root).join("models/qa-llama");
        let sequence = Scored { ids: (4..40).collect(), answer_start: 30 };
        let loss = |device: &Device, format: Format| -> Result<f64> {
            let generator = Generator::load_as(&dir, device, Some(format))?;
            let (log_probs, _) = generator.answer_log_probs(std::slice::from_ref(&sequence), Grad::Off)?;
            Ok(f64::from(log_probs.sum_all()?.to_scalar::<f32>()?))
        };
        for (format, most) in FORMATS {
            self.cases += 1;
            let (found, expected) = (loss(&self.device, format)?, loss(&Device::Cpu, format)?);
            let most = if self.rounded { most.max(self.tolerance.0) } else { most };
            self.judge(&format!("{}: loss", format.name()), ((found - expected) / expected).abs(), most);
        }
        Ok(())
    }

    /// Three steps on the device and on the CPU.
    fn optimiser(&mut self, root: &Path) -> Result<()> {
        self.cases += 1;
        let dir = root.join("generator/tied");
        let golden = golden(&dir)?;
        let trained = |device: &Device| -> Result<Vec<(String, Tensor)>> {
            let generator = Generator::load(&dir, device)?;
            let mut adamw = AdamW::new(AdamWConfig { weight_decay: 0.01, ..AdamWConfig::default() })?;
            for _ in 0..3 {
                let (log_probs, _) = generator.answer_log_probs(&scored(&golden), Grad::On)?;
                let mut gradients = optimizer::gradients(generator.params(), &log_probs.sum_all()?.neg()?.backward()?)?;
                optimizer::clip(&mut gradients, 1.0)?;
                adamw.step(generator.params(), &gradients, 1e-3)?;
            }
            let of = |(name, var): (&str, &candle_core::Var)| (name.to_owned(), var.as_detached_tensor());
            Ok(generator.params().trainable().map(of).collect())
        };
        // An update is as large as the learning rate whatever its gradient: what is next to nothing may point either way.
        for ((name, found), (_, expected)) in trained(&self.device)?.iter().zip(trained(&Device::Cpu)?) {
            let most = if self.rounded { 6e-3 } else { 1e-3 };
            let difference = difference(found, &expected)?;
            self.judge(&format!("optimiser: {name}"), difference, most);
        }
        Ok(())
    }
}

fn scored(golden: &Golden) -> Vec<Scored> {
    golden.sequences.iter().map(|row| Scored { ids: row.ids.clone(), answer_start: row.answer_start }).collect()
}

fn golden(dir: &Path) -> Result<Golden> {
    json(&dir.join("golden.json"))
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).context(|| format!("`{}` cannot be understood", path.display()))
}

fn wanted(tensors: &mut Weights, name: &str) -> Result<Tensor> {
    tensors.take_any(name)?.ok_or_else(|| Error::new(format!("the golden numbers lack `{name}`")))
}

/// The folders in a folder, in order of their names.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(path).context(|| format!("cannot read `{}`", path.display()))?;
    let mut found: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    found.sort();
    Ok(found)
}

fn difference(found: &Tensor, expected: &Tensor) -> Result<f64> {
    if found.dims() != expected.dims() {
        return Ok(f64::INFINITY);
    }
    with_values(found, |found| {
        with_values(expected, |expected| {
            let differences = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs()));
            // A NaN counts as infinitely far.
            differences.fold(0.0, |most, one| if one.is_nan() { f64::INFINITY } else { f64::max(most, one) })
        })
    })?
}

fn largest(t: &Tensor) -> Result<f64> {
    with_values(t, |values| values.iter().fold(0.0, |most, value| f64::max(most, f64::from(value.abs()))))
}
