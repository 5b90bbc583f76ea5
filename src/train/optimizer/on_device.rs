//! Updates of weights that are not on the CPU: the same equations out of candle's operations, where the weights are. Numbers
//! come back for all weights at once, because waiting for a device after each of them costs more than the update.

use candle_core::{Tensor, Var};

use super::{Moments, Update, diverges};
use crate::error::{Context, Result};

impl Update {
    /// The changed weight and, in one number that is 0 or NaN, whether it and the moments are finite. The moments become
    /// tensors beside the weight.
    pub(super) fn apply_on_device(
        &self,
        weight: &Tensor,
        gradient: &Tensor,
        moments: &mut Moments,
    ) -> Result<(Tensor, Tensor)> {
        let (weight, g) = (weight.detach(), gradient.detach());
        let [mean, square] = moments.tensors(weight.device())?;
        let mean = (&mean + ((&g - &mean)? * f64::from(self.take_mean))?)?;
        let square = ((square * f64::from(self.beta2))? + (g.sqr()? * f64::from(self.take_square))?)?;
        let spread = square.sqrt()?.affine(1.0 / f64::from(self.root_correction), f64::from(self.eps))?;
        let moved = ((&mean / spread)? * f64::from(self.step_size))?;
        let changed = ((weight * f64::from(self.keep))? - moved)?;
        // A mean that is not finite shows in the weight, unless the square is not finite either.
        let odd = (odd(&changed)? + odd(&square)?)?;
        *moments = Moments::Device { mean, square };
        Ok((changed, odd))
    }
}

/// One number: 0 where all of `t` are finite, NaN elsewhere.
pub(super) fn odd(t: &Tensor) -> Result<Tensor> {
    Ok((t.detach() * 0.0)?.sum_all()?)
}

/// Σ t², one number.
pub(super) fn sum_of_squares(t: &Tensor) -> Result<Tensor> {
    Ok(t.detach().sqr()?.sum_all()?)
}

/// The values of single numbers, fetched together.
pub(super) fn fetch(numbers: &[Tensor]) -> Result<Vec<f32>> {
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Tensor::stack(numbers, 0)?.to_vec1()?)
}

/// Which of some numbers, made by [`odd`], is the first that is not 0.
pub(super) fn first_odd<'a>(numbers: impl Iterator<Item = &'a Tensor>) -> Result<Option<usize>> {
    let numbers: Vec<Tensor> = numbers.cloned().collect();
    Ok(fetch(&numbers)?.iter().position(|number| *number != 0.0))
}

/// Numbers of weights that wait at most: 64 MiB.
const WAITING: usize = 1 << 24;

/// Changed weights of which it is not known yet whether they are finite.
pub(super) struct Waiting<'a> {
    lr: f64,
    numbers: usize,
    changes: Vec<(&'a str, &'a Var, Tensor, Tensor)>,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(lr: f64) -> Self {
        Self { lr, numbers: 0, changes: Vec::new() }
    }

    /// Adds a change and its number; sets what waits when it is much.
    pub(super) fn push(&mut self, name: &'a str, var: &'a Var, (changed, odd): (Tensor, Tensor)) -> Result<()> {
        self.numbers += var.elem_count();
        self.changes.push((name, var, changed, odd));
        if self.numbers >= WAITING { self.set() } else { Ok(()) }
    }

    /// Sets the weights that wait, in order, up to the first that is not finite, which is an error naming it.
    pub(super) fn set(&mut self) -> Result<()> {
        let odd = first_odd(self.changes.iter().map(|(.., odd)| odd))?;
        self.numbers = 0;
        for (at, (name, var, changed, _)) in std::mem::take(&mut self.changes).into_iter().enumerate() {
            if odd == Some(at) {
                return Err(diverges(name, self.lr));
            }
            var.set(&changed).context(|| format!("cannot change the weight `{name}`"))?;
        }
        Ok(())
    }
}
