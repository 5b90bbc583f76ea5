//! Rotary position embedding in the rotate-half layout of transformers' Llama.

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{check, each_piece, floats, gradient, read_floats, unwritten, wrong_shape};
use super::portable;
use crate::error::Result;

/// Rotates each pair (x_i, x_{i+R/2}) of a head by the angle of its token and frequency (Su et al., arXiv 2104.09864):
/// y_i = x_i cos − x_{i+R/2} sin, y_{i+R/2} = x_{i+R/2} cos + x_i sin for i < R/2; the other Dh − R numbers stay.
///
/// `x` (N, H·Dh), heads side by side as a linear layer leaves them; `cos` and `sin` (N, R/2) with R ≤ Dh, which get no
/// gradient; result as `x`. The backward pass is the inverse rotation.
pub fn rope_packed(x: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    check("rope", &[x, cos, sin])?;
    let (tokens, packed) = match x.dims() {
        &[tokens, packed] if heads > 0 && packed % heads == 0 && tokens * packed > 0 => (tokens, packed),
        got => return Err(wrong_shape("rope", "a tensor", got, &format!("(tokens, {heads} heads times head width)"))),
    };
    let width = packed / heads;
    for (what, table) in [("cosines", cos), ("sines", sin)] {
        let fits = matches!(table.dims(), &[rows, half] if rows == tokens && half > 0 && 2 * half <= width);
        if !fits || table.dims() != cos.dims() {
            return Err(wrong_shape("rope", what, table.dims(), &format!("({tokens}, at most {})", width / 2)));
        }
    }
    if portable::is_portable(x) {
        return Ok(portable::rope_packed(x, heads, &cos.detach(), &sin.detach())?);
    }
    Ok(x.contiguous()?.apply_op3(
        &cos.detach().contiguous()?,
        &sin.detach().contiguous()?,
        Rotation { heads, width },
    )?)
}

struct Rotation {
    heads: usize,
    width: usize,
}

impl Rotation {
    /// `direction` 1 rotates forwards, −1 back.
    fn apply(&self, x: &[f32], cos: &[f32], sin: &[f32], direction: f32) -> Vec<f32> {
        let packed = self.heads * self.width;
        let half = cos.len() / (x.len() / packed);
        let mut y = unwritten(x.len());
        each_piece(&mut y, packed, |first, y| {
            let x = &x[first * packed..first * packed + y.len()];
            for (token, (x, y)) in x.chunks_exact(packed).zip(y.chunks_exact_mut(packed)).enumerate() {
                let at = (first + token) * half;
                let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                for (x, y) in x.chunks_exact(self.width).zip(y.chunks_exact_mut(self.width)) {
                    rotate(x, y, cos, sin, direction);
                }
            }
        });
        y
    }
}

#[inline(always)]
fn rotate(x: &[f32], y: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    let half = cos.len();
    let (x1, rest) = x.split_at(half);
    let (x2, x_left) = rest.split_at(half);
    let (y1, rest) = y.split_at_mut(half);
    let (y2, y_left) = rest.split_at_mut(half);
    for i in 0..half {
        let s = direction * sin[i];
        y1[i] = x1[i] * cos[i] - x2[i] * s;
        y2[i] = x2[i] * cos[i] + x1[i] * s;
    }
    y_left.copy_from_slice(x_left);
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
