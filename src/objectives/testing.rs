//! What the tests of the objectives share.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};

/// The tensors of one objective in `fixtures/golden/FILE.safetensors`, without its name before them.
pub fn golden(file: &str, objective: &str) -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(file).with_extension("safetensors");
    let all = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let prefix = format!("{objective}.");
    let found: HashMap<String, Tensor> =
        all.into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor))).collect();
    assert!(!found.is_empty(), "no golden numbers of {objective}");
    found
}

pub fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

pub fn variable(values: &[f32], shape: &[usize]) -> Var {
    Var::from_tensor(&tensor(values, shape)).unwrap()
}

pub fn var(tensor: &Tensor) -> Var {
    Var::from_tensor(tensor).unwrap()
}

pub fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn gradient(loss: &Tensor, of: &Var) -> Vec<f32> {
    numbers(loss.backward().unwrap().get(of).unwrap())
}

/// Within 1e-5 of the largest expected number.
pub fn close(what: &str, got: &Tensor, expected: &Tensor) {
    let (got, expected) = (numbers(got), numbers(expected));
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f32, |scale, value| scale.max(value.abs()));
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= 1e-5 * scale, "{what}: {got} against {expected}");
    }
}

/// Loss and every gradient against the golden numbers: `loss`, and `NAME.grad` of each variable given.
pub fn check_golden(what: &str, golden: &HashMap<String, Tensor>, loss: &Tensor, variables: &[(&str, &Var)]) {
    close(&format!("{what}: loss"), loss, &golden["loss"]);
    let gradients = loss.backward().unwrap();
    for (name, variable) in variables {
        let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{what}: no gradient of {name}"));
        close(&format!("{what}: gradient of {name}"), gradient, &golden[&format!("{name}.grad")]);
    }
}
