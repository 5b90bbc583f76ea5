//! Rotary position embedding in the rotate-half layout of transformers' Llama.

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{check, each_piece, floats, gradient, read_floats, wrong_shape};
use crate::error::Result;

/// Rotates each pair (x_i, x_{i+Dh/2}) by the angle of its position and frequency (Su et al., arXiv 2104.09864):
/// y_i = x_i cos − x_{i+Dh/2} sin, y_{i+Dh/2} = x_{i+Dh/2} cos + x_i sin.
///
/// `x` (B, H, T, Dh), `cos` and `sin` (B or 1, T, Dh/2), which get no gradient; result as `x`. The backward pass is the
/// inverse rotation.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let &[batch, heads, tokens, width] = x.dims() else {
        return Err(wrong_shape("rope", "a tensor", x.dims(), "(batch, heads, tokens, head width)"));
    };
    rotate(x, cos, sin, Rotation { batch, heads, tokens, width, heads_first: true })
}

/// [`rope`] for heads packed side by side as a linear layer leaves them: `x` (B, T, H·Dh).
pub fn rope_packed(x: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let &[batch, tokens, packed] = x.dims() else {
        return Err(wrong_shape("rope", "a tensor", x.dims(), "(batch, tokens, heads times head width)"));
    };
    if heads == 0 || packed % heads != 0 {
        return Err(wrong_shape("rope", "a tensor", x.dims(), &format!("a last dimension divisible by {heads} heads")));
    }
    rotate(x, cos, sin, Rotation { batch, heads, tokens, width: packed / heads, heads_first: false })
}

fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor, rotation: Rotation) -> Result<Tensor> {
    check("rope", &[x, cos, sin])?;
    let Rotation { batch, tokens, width, .. } = rotation;
    if width % 2 != 0 || x.elem_count() == 0 {
        return Err(wrong_shape("rope", "a tensor", x.dims(), "a head width that is even and nothing empty"));
    }
    for (what, table) in [("cosines", cos), ("sines", sin)] {
        let fits = table.dims() == [batch, tokens, width / 2] || table.dims() == [1, tokens, width / 2];
        if !fits || table.dims() != cos.dims() {
            let expected = format!("({batch} or 1, {tokens}, {})", width / 2);
            return Err(wrong_shape("rope", what, table.dims(), &expected));
        }
    }
    Ok(x.contiguous()?.apply_op3(&cos.detach().contiguous()?, &sin.detach().contiguous()?, rotation)?)
}

struct Rotation {
    batch: usize,
    heads: usize,
    tokens: usize,
    width: usize,
    heads_first: bool,
}

impl Rotation {
    /// `direction` 1 rotates forwards, −1 back.
    fn apply(&self, x: &[f32], cos: &[f32], sin: &[f32], direction: f32) -> Vec<f32> {
        let half = self.width / 2;
        let per_sequence = if cos.len() == self.tokens * half { 0 } else { self.tokens };
        let mut y = vec![0f32; x.len()];
        each_piece(&mut y, self.width, |first, y| {
            let x = &x[first * self.width..first * self.width + y.len()];
            for (row, (x, y)) in x.chunks_exact(self.width).zip(y.chunks_exact_mut(self.width)).enumerate() {
                let row = first + row;
                let token = if self.heads_first { row % self.tokens } else { row / self.heads % self.tokens };
                let at = (row / (self.heads * self.tokens) * per_sequence + token) * half;
                let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                let (x1, x2) = x.split_at(half);
                let (y1, y2) = y.split_at_mut(half);
                for i in 0..half {
                    let s = direction * sin[i];
                    y1[i] = x1[i] * cos[i] - x2[i] * s;
                    y2[i] = x2[i] * cos[i] + x1[i] * s;
                }
            }
        });
        y
    }
}

impl CustomOp3 for Rotation {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        cos: &CpuStorage,
        cl: &Layout,
        sin: &CpuStorage,
        sl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let name = self.name();
        let y = self.apply(floats(name, x, xl)?, floats(name, cos, cl)?, floats(name, sin, sl)?, 1.0);
        Ok((CpuStorage::F32(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dx = read_floats(&dy.contiguous()?, |dy| {
            read_floats(cos, |cos| read_floats(sin, |sin| self.apply(dy, cos, sin, -1.0)))
        })???;
        Ok((gradient(dx, x.shape())?, None, None))
    }
}
