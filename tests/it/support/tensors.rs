//! Safetensors files read, changed and written without the program's own code.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// One f32 tensor.
pub struct TensorData {
    /// Extents.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

impl TensorData {
    /// A vector of ones.
    pub fn ones(extent: usize) -> Self {
        Self { shape: vec![extent], values: vec![1.0; extent] }
    }

    /// Writes tensors as one file.
    pub fn write(path: &Path, tensors: &[(String, Self)]) {
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .iter()
            .map(|(name, tensor)| {
                let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                (name.clone(), tensor.shape.clone(), bytes)
            })
            .collect();
        let views =
            bytes.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

/// Reads a safetensors file (f16 or f32), lets `change` at its tensors, and writes it as f32.
pub fn edit_tensors(path: &Path, change: impl Fn(&str, &mut TensorData)) {
    let file = std::fs::read(path).unwrap();
    let mut tensors: Vec<(String, TensorData)> = SafeTensors::deserialize(&file)
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::F32 => view.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::F16 => view.data().chunks(2).map(|b| half(u16::from_le_bytes(b.try_into().unwrap()))).collect(),
                other => panic!("{other:?} is not expected in the fixtures"),
            };
            (name, TensorData { shape: view.shape().to_vec(), values })
        })
        .collect();
    for (name, tensor) in &mut tensors {
        change(name, tensor);
    }
    TensorData::write(path, &tensors);
}

/// Cuts the weights of a folder into shards of these names, tensors in turn, with their index; returns the names.
pub fn shard(folder: &Path, names: &[&str]) -> Vec<String> {
    let single = folder.join("model.safetensors");
    let file = std::fs::read(&single).unwrap();
    let parsed = SafeTensors::deserialize(&file).unwrap();
    let mut tensors = parsed.tensors();
    tensors.sort_by(|one, other| one.0.cmp(&other.0));
    let mut map = serde_json::Map::new();
    for (at, shard) in names.iter().enumerate() {
        let mine =
            tensors.iter().enumerate().filter(|(number, _)| number % names.len() == at).map(|(_, tensor)| tensor);
        let views: Vec<(&String, &TensorView<'_>)> = mine.map(|(name, view)| (name, view)).collect();
        map.extend(views.iter().map(|(name, _)| ((*name).clone(), (*shard).into())));
        std::fs::write(folder.join(shard), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::remove_file(single).unwrap();
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A finite f16 as f32.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}
