//! Gradient checkpointing (Chen et al., arXiv 1604.06174): the inside of a block is thrown away after the forward pass and
//! computed again in the backward pass. Memory falls from everything inside all blocks to one tensor a block and the inside
//! of one block; time grows by about one forward pass.
//!
//! A model that checkpoints sends each block through [`Tape::run`]. The result is a leaf of its own: `loss.backward()` stops
//! there, and [`Tape::finish`] goes on from the last block to the first.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

use super::nn;
use crate::error::Result;

/// The blocks of forward passes whose backward pass is still to come.
#[derive(Default)]
pub struct Tape {
    segments: Mutex<Vec<Segment>>,
}

type Block = Box<dyn Fn(&Tensor) -> Result<Tensor> + Send>;

struct Segment {
    /// What went in: the output of an earlier segment, or a tensor with a graph of its own.
    input: Tensor,
    block: Block,
    /// What came out, as a leaf.
    output: Var,
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a tape of {} blocks", self.lock().len())
    }
}

impl Tape {
    /// `block(x)` without its inside. A block that depends on nothing that trains is not kept.
    pub fn run(&self, x: &Tensor, block: impl Fn(&Tensor) -> Result<Tensor> + Send + 'static) -> Result<Tensor> {
        // Detached: what is recorded inside goes with `y`, at the end of this function.
        let y = block(&x.detach())?;
        if !y.track_op() && !x.track_op() {
            return Ok(y);
        }
        let output = Var::from_tensor(&y.detach())?;
        let result = output.as_tensor().clone();
        self.lock().push(Segment { input: x.clone(), block: Box::new(block), output });
        Ok(result)
    }

    /// Completes the gradients that `loss.backward()` began: runs every block again, last first, and empties the tape.
    pub fn finish(&self, gradients: &mut GradStore) -> Result<()> {
        let segments = std::mem::take(&mut *self.lock());
        for Segment { input, block, output } in segments.into_iter().rev() {
            // A block on which the loss does not depend.
            let Some(dy) = gradients.remove(&output) else { continue };
            let x = Var::from_tensor(&input.detach())?;
            let mut inside = seeded(&block(&x)?, dy)?.backward()?;
            let dx = inside.remove(&x);
            gradients.extend(inside)?;
            if let (true, Some(dx)) = (input.track_op(), dx) {
                gradients.extend(seeded(&input, dx)?.backward()?)?;
            }
        }
        Ok(())
    }

    /// Forgets forward passes that no backward pass will follow, after an error for instance.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Segment>> {
        // Whoever panicked while holding it left a list of whole segments.
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A scalar whose gradient with respect to `y` is `dy`.
pub(super) fn seeded(y: &Tensor, dy: Tensor) -> Result<Tensor> {
    let nothing = Tensor::zeros((), DType::F32, y.device())?;
    Ok(nn::graft(&[y], nothing, move |_one| Ok(vec![Some(dy.clone())]))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn var(values: &[f32]) -> Var {
        Var::from_tensor(&Tensor::new(values, &Device::Cpu).unwrap()).unwrap()
    }

    fn values(grads: &GradStore, var: &Var) -> Vec<f32> {
        grads.get(var).unwrap().to_vec1().unwrap()
    }

    /// Three blocks, the first on a tensor with a graph of its own, one weight used twice: as without a tape.
    #[test]
    fn gradients_are_those_without_a_tape() {
        let (table, a, b) = (var(&[1.0, -2.0, 3.0]), var(&[0.5, 1.5, -1.0]), var(&[2.0, 0.25, 1.0]));
        let embed = || (table.as_tensor() * 2.0).unwrap();
        let block = |weight: &Var| {
            let weight = weight.clone();
            move |x: &Tensor| -> Result<Tensor> { Ok(((x * weight.as_tensor())?.tanh()? + x)?) }
        };
        let (one, two) = (block(&a), block(&b));
        let plain = one(&two(&one(&embed()).unwrap()).unwrap()).unwrap();
        let want = plain.sqr().unwrap().sum_all().unwrap().backward().unwrap();

        let tape = Tape::default();
        let x = tape.run(&embed(), block(&a)).unwrap();
        let x = tape.run(&x, block(&b)).unwrap();
        let y = tape.run(&x, block(&a)).unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), plain.to_vec1::<f32>().unwrap());
        let mut got = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        tape.finish(&mut got).unwrap();
        for var in [&table, &a, &b] {
            for (got, want) in values(&got, var).iter().zip(values(&want, var)) {
                assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{got} {want}");
            }
        }
        assert_eq!(format!("{tape:?}"), "a tape of 0 blocks");
    }

    #[test]
    fn blocks_without_anything_that_trains_are_not_kept() {
        let x = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let tape = Tape::default();
        let y = tape.run(&x, |x| Ok((x * 3.0)?)).unwrap();
        assert!(!y.track_op());
        assert_eq!(format!("{tape:?}"), "a tape of 0 blocks");
    }
}
