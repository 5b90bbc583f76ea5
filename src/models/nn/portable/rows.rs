//! Rows of tables, and rotations of rows.

use candle_core::{Result as CandleResult, Tensor};

use super::graft;

pub fn embedding(table: &Tensor, ids: &Tensor) -> CandleResult<Tensor> {
    let shape: Vec<usize> = ids.dims().iter().copied().chain([table.dim(1)?]).collect();
    let (ids, rows) = (ids.flatten_all()?, table.detach().contiguous()?);
    let y = rows.index_select(&ids, 0)?.reshape(shape)?;
    graft(&[table], y, move |dy| Ok(vec![Some(add_rows(&rows, &ids, dy)?)]))
}

/// The gradient of `table` (V, D) whose rows `ids` (N) were taken: rows of `dy` added up in the order of the ids.
fn add_rows(table: &Tensor, ids: &Tensor, dy: &Tensor) -> CandleResult<Tensor> {
    table.zeros_like()?.index_add(ids, &dy.reshape((ids.elem_count(), table.dim(1)?))?, 0)
}

pub fn bert_embedding(
    word: &Tensor,
    position: &Tensor,
    segment: &Tensor,
    ids: &Tensor,
    places: &Tensor,
) -> CandleResult<Tensor> {
    let first = embedding(segment, &ids.zeros_like()?.narrow(0, 0, 1)?)?;
    (embedding(word, ids)?.broadcast_add(&first))? + embedding(position, places)?
}

pub fn rope_packed(x: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) -> CandleResult<Tensor> {
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let y = rotate(&x.detach(), heads, &cos, &sin)?;
    graft(&[x], y, move |dy| Ok(vec![Some(rotate(dy, heads, &cos, &sin.neg()?)?)]))
}

/// `x` (N, H·Dh), `cos` and `sin` (N, 1, R/2).
fn rotate(x: &Tensor, heads: usize, cos: &Tensor, sin: &Tensor) -> CandleResult<Tensor> {
    let (tokens, packed) = x.dims2()?;
    let (width, half) = (packed / heads, cos.dim(2)?);
    let x = x.reshape((tokens, heads, width))?;
    let (one, two) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let turned = [
        one.broadcast_mul(cos)?.sub(&two.broadcast_mul(sin)?)?,
        two.broadcast_mul(cos)?.add(&one.broadcast_mul(sin)?)?,
        x.narrow(2, 2 * half, width - 2 * half)?,
    ];
    let parts = if width == 2 * half { &turned[..2] } else { &turned[..] };
    Tensor::cat(parts, 2)?.reshape((tokens, packed))
}
