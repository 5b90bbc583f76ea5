//! The output layer and the log-probability of the target in one operation.
//!
//! Logits over a vocabulary of a hundred thousand tokens are by far the largest tensor of a training step. Here they exist
//! for a few rows at a time, are used at once, and are computed again in the backward pass.

use candle_core::{CpuStorage, CustomOp2, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use super::kernel::{check, check_ids, floats, gradient, read_floats, read_ids, wrong_shape};
use super::matmul::{Target, View, multiply_on_all_cores};
use super::portable;
use super::softmax::{log_prob_backward, log_prob_forward};
use crate::error::{Error, Result};

/// Logits that exist at a time: 32 MiB.
const LOGITS: usize = 1 << 23;

/// Gradients that are smaller than this share of the largest in a pass count as none: float32 rounds them away in every sum that
/// they go into (its steps are 6e-8), and what they are multiplied to leaves its normal range, where processors are many times
/// slower. RAG-Sequence's posterior makes such gradients out of all passages but one: with them five steps on nq-qed take 39.9 CPU
/// seconds backward, without 5.2, as RAG-Token's do (benches/runs/2026-11-21-xeon-2-cores).
const NEGLIGIBLE: f32 = 1e-12;

/// log softmax(x · Wᵀ) at the target of each row, in nats; with `soft_cap` c the logits z become c · tanh(z / c) first
/// (Gemma 2, arXiv 2408.00118).
///
/// `x` (M, D), `weight` (V, D), `targets` u32 (M); result (M). Gradients to `x` and `weight`, each where it is needed.
pub fn linear_log_prob(x: &Tensor, weight: &Tensor, targets: &Tensor, soft_cap: Option<f64>) -> Result<Tensor> {
    check("linear_log_prob", &[x, weight])?;
    check_ids("linear_log_prob", targets)?;
    let (rows, vocabulary) = match (x.dims(), weight.dims()) {
        (&[rows, input], &[vocabulary, width]) if input == width && rows * input * vocabulary > 0 => (rows, vocabulary),
        (_, got) => {
            return Err(wrong_shape("linear_log_prob", "a weight", got, &format!("(V, D) for rows {:?}", x.dims())));
        }
    };
    if targets.dims() != [rows] {
        return Err(wrong_shape("linear_log_prob", "targets", targets.dims(), &format!("({rows})")));
    }
    let ids = targets.contiguous()?;
    let targets = read_ids(&ids, <[u32]>::to_vec)?;
    if let Some((row, id)) = targets.iter().enumerate().find(|&(_, &id)| id as usize >= vocabulary) {
        return Err(Error::new(format!("target `{id}` of row {row} is outside the vocabulary of {vocabulary}")));
    }
    if portable::is_portable(x) {
        return Ok(portable::linear_log_prob(x, weight, &ids, soft_cap)?);
    }
    let op = LinearLogProb { targets, soft_cap: soft_cap.map(|cap| cap as f32) };
    Ok(x.contiguous()?.apply_op2(&weight.contiguous()?, op)?)
}

struct LinearLogProb {
    targets: Vec<u32>,
    soft_cap: Option<f32>,
}

/// Rows of `x`, as many at a time as the limit allows.
fn chunks(rows: usize, vocabulary: usize) -> impl Iterator<Item = (usize, usize)> {
    let step = (LOGITS / vocabulary).max(1);
    (0..rows).step_by(step).map(move |first| (first, step.min(rows - first)))
}

impl LinearLogProb {
    /// Incoming gradients without those that are negligible.
    fn significant(dy: &[f32]) -> Vec<f32> {
        let largest = dy.iter().fold(0f32, |largest, dy| largest.max(dy.abs()));
        // Written so that a NaN stays one.
        dy.iter().map(|&dy| if dy.abs() < NEGLIGIBLE * largest { 0.0 } else { dy }).collect()
    }

    fn logits(&self, x: View<'_>, weight: View<'_>, vocabulary: usize, logits: &mut [f32]) {
        multiply_on_all_cores(Target::dense(logits, vocabulary), x, weight.transposed(), 1.0, false);
        if let Some(cap) = self.soft_cap {
            logits.par_chunks_mut(vocabulary).for_each(|row| row.iter_mut().for_each(|z| *z = cap * (*z / cap).tanh()));
        }
    }
}

impl CustomOp2 for LinearLogProb {
    fn name(&self) -> &'static str {
        "linear_log_prob"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        weight: &CpuStorage,
        wl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (x, weight) = (floats(self.name(), x, xl)?, floats(self.name(), weight, wl)?);
        let ((rows, width), (vocabulary, _)) = (xl.shape().dims2()?, wl.shape().dims2()?);
        let weight = View::new(weight, 0, vocabulary, width, width);
        let mut y = vec![0f32; rows];
        let mut logits = Vec::new();
        for (first, count) in chunks(rows, vocabulary) {
            logits.resize(count * vocabulary, 0.0);
            self.logits(View::new(x, first * width, count, width, width), weight, vocabulary, &mut logits);
            let targets = &self.targets[first..first + count];
            y[first..first + count]
                .par_iter_mut()
                .zip(logits.par_chunks(vocabulary).zip(targets))
                .for_each(|(y, (row, target))| log_prob_forward(row, &[*target], vocabulary, std::slice::from_mut(y)));
        }
        Ok((CpuStorage::F32(y), rows.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let ((rows, width), (vocabulary, _)) = (x.dims2()?, weight.dims2()?);
        let zeros = |tensor: &Tensor| tensor.track_op().then(|| vec![0f32; tensor.elem_count()]);
        let (mut dx, mut dweight) = (zeros(x), zeros(weight));
        read_floats(x, |x| {
            read_floats(weight, |weight| {
                read_floats(&dy.contiguous()?, |dy| {
                    let weight = View::new(weight, 0, vocabulary, width, width);
                    let (mut logits, mut dlogits) = (Vec::new(), Vec::new());
                    let dy = Self::significant(dy);
                    for (first, count) in chunks(rows, vocabulary) {
                        logits.resize(count * vocabulary, 0.0);
                        dlogits.clear();
                        dlogits.resize(count * vocabulary, 0.0);
                        let x = View::new(x, first * width, count, width, width);
                        self.logits(x, weight, vocabulary, &mut logits);
                        let of_row = self.targets[first..first + count].par_iter().zip(&dy[first..first + count]);
                        dlogits.par_chunks_mut(vocabulary).zip(logits.par_chunks(vocabulary).zip(of_row)).for_each(
                            |(dlogits, (logits, (target, dy)))| {
                                if *dy == 0.0 {
                                    return;
                                }
                                log_prob_backward(logits, &[*target], &[*dy], vocabulary, dlogits);
                                if let Some(cap) = self.soft_cap {
                                    let slope = |z: f32| 1.0 - (z / cap) * (z / cap);
                                    dlogits.iter_mut().zip(logits).for_each(|(d, &z)| *d *= slope(z));
                                }
                            },
                        );
                        let dlogits = View::new(&dlogits, 0, count, vocabulary, vocabulary);
                        if let Some(dx) = &mut dx {
                            let to = &mut dx[first * width..(first + count) * width];
                            multiply_on_all_cores(Target::dense(to, width), dlogits, weight, 1.0, false);
                        }
                        if let Some(dweight) = &mut dweight {
                            multiply_on_all_cores(Target::dense(dweight, width), dlogits.transposed(), x, 1.0, true);
                        }
                    }
                    CandleResult::Ok(())
                })
            })
        })????;
        let found = |values: Option<Vec<f32>>, tensor: &Tensor| match values {
            Some(values) => gradient(values, tensor.shape()),
            None => Ok(None),
        };
        Ok((found(dx, x)?, found(dweight, weight)?))
    }
}
