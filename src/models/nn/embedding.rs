//! Rows of a table chosen by ids.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{
    check, check_ids, each_piece, floats, gradient, ids, read_floats, read_ids, unwritten, wrong_shape,
};
use super::portable;
use crate::error::{Error, Result};

/// The rows of `table` (V, D) named by `ids` u32 (N), or of any other shape: (N, D).
///
/// The gradient of the table is dense; rows named several times add up in the order of the ids. An id of V or more is
/// an error.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    check("embedding", &[table])?;
    check_ids("embedding", ids)?;
    let ids = ids.contiguous()?;
    check_range("embedding", table, &ids)?;
    if portable::is_portable(table) {
        return Ok(portable::embedding(table, &ids)?);
    }
    Ok(table.contiguous()?.apply_op2(&ids, Embedding)?)
}

/// The input of BERT in one pass: `word[id] + position[place] + segment[0]` for each token.
///
/// `word` (V, D), `position` (P, D), `segment` (S, D) of which row 0 is used, `ids` and `places` u32 (N), places below P;
/// result (N, D). Dense gradients to the three tables.
pub fn bert_embedding(
    word: &Tensor,
    position: &Tensor,
    segment: &Tensor,
    ids: &Tensor,
    places: &Tensor,
) -> Result<Tensor> {
    check("bert_embedding", &[word, position, segment])?;
    for (table, rows) in [(word, ids), (position, places)] {
        check_ids("bert_embedding", rows)?;
        check_range("bert_embedding", table, &rows.contiguous()?)?;
    }
    let width = word.dims()[1];
    for (what, table) in [("positions", position), ("segments", segment)] {
        if !matches!(table.dims(), &[have, columns] if have >= 1 && columns == width) {
            return Err(wrong_shape("bert_embedding", what, table.dims(), &format!("(at least 1, {width})")));
        }
    }
    if ids.dims() != places.dims() {
        return Err(wrong_shape("bert_embedding", "places", places.dims(), &format!("{:?}", ids.dims())));
    }
    if portable::is_portable(word) {
        return Ok(portable::bert_embedding(word, position, segment, ids, places)?);
    }
    let read = |ids: &Tensor| read_ids(&ids.contiguous()?, <[u32]>::to_vec);
    let op = BertEmbedding { ids: read(ids)?, places: read(places)? };
    Ok(word.contiguous()?.apply_op3(&position.contiguous()?, &segment.contiguous()?, op)?)
}

fn check_range(op: &str, table: &Tensor, ids: &Tensor) -> Result<()> {
    let rows = match table.dims() {
        &[rows, width] if width > 0 => rows,
        got => return Err(wrong_shape(op, "a table", got, "(vocabulary, width)")),
    };
    if ids.elem_count() == 0 {
        return Err(wrong_shape(op, "ids", ids.dims(), "at least one"));
    }
    match read_ids(ids, |ids| ids.iter().copied().find(|&id| id as usize >= rows))? {
        None => Ok(()),
        Some(id) => Err(Error::new(format!("{op} got id `{id}`, expected less than the {rows} rows of its table"))
            .hint("the tokenizer does not belong to this model")),
    }
}

/// Adds each row of `from` to the row of `to` that its id names, in the order of the ids.
fn add_rows(ids: impl Iterator<Item = usize>, from: &[f32], width: usize, to: &mut [f32]) {
    for (id, row) in ids.zip(from.chunks_exact(width)) {
        to[id * width..(id + 1) * width].iter_mut().zip(row).for_each(|(to, &from)| *to += from);
    }
}

struct Embedding;

impl CustomOp2 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(
        &self,
        table: &CpuStorage,
        tl: &Layout,
        chosen: &CpuStorage,
        il: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let table = floats(self.name(), table, tl)?;
        let chosen = ids(self.name(), chosen, il)?;
        let (_, width) = tl.shape().dims2()?;
        let mut y = unwritten(chosen.len() * width);
        each_piece(&mut y, width, |first, y| {
            for (row, &id) in y.chunks_exact_mut(width).zip(&chosen[first..]) {
                row.copy_from_slice(&table[id as usize * width..(id as usize + 1) * width]);
            }
        });
        let shape: Vec<usize> = il.shape().dims().iter().copied().chain([width]).collect();
        Ok((CpuStorage::F32(y), shape.into()))
    }

    fn bwd(
        &self,
        table: &Tensor,
        ids: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let (_, width) = table.dims2()?;
        let mut sums = vec![0f32; table.elem_count()];
        read_ids(ids, |ids| {
            read_floats(&dy.contiguous()?, |dy| add_rows(ids.iter().map(|&id| id as usize), dy, width, &mut sums))
        })??;
        Ok((gradient(sums, table.shape())?, None))
    }
}

struct BertEmbedding {
    ids: Vec<u32>,
    places: Vec<u32>,
}

impl CustomOp3 for BertEmbedding {
    fn name(&self) -> &'static str {
        "bert_embedding"
    }

    fn cpu_fwd(
        &self,
        word: &CpuStorage,
        wl: &Layout,
        position: &CpuStorage,
        pl: &Layout,
        segment: &CpuStorage,
        sl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let word = floats(self.name(), word, wl)?;
        let position = floats(self.name(), position, pl)?;
        let (_, width) = wl.shape().dims2()?;
        let segment = &floats(self.name(), segment, sl)?[..width];
        let mut y = unwritten(self.ids.len() * width);
        each_piece(&mut y, width, |first, y| {
            let chosen = self.ids[first..].iter().zip(&self.places[first..]);
            for (row, (&id, &place)) in y.chunks_exact_mut(width).zip(chosen) {
                let word = &word[id as usize * width..(id as usize + 1) * width];
                let position = &position[place as usize * width..(place as usize + 1) * width];
                for (((y, &word), &position), &segment) in row.iter_mut().zip(word).zip(position).zip(segment) {
                    *y = word + segment + position;
                }
            }
        });
        Ok((CpuStorage::F32(y), (self.ids.len(), width).into()))
    }

    fn bwd(
        &self,
        word: &Tensor,
        position: &Tensor,
        segment: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, width) = word.dims2()?;
        let dy = dy.contiguous()?;
        let collect = |table: &Tensor, row: &dyn Fn(usize) -> usize| -> CandleResult<Option<Tensor>> {
            if !table.track_op() {
                return Ok(None);
            }
            let mut sums = vec![0f32; table.elem_count()];
            read_floats(&dy, |dy| add_rows((0..self.ids.len()).map(row), dy, width, &mut sums))?;
            gradient(sums, table.shape())
        };
        Ok((
            collect(word, &|at| self.ids[at] as usize)?,
            collect(position, &|at| self.places[at] as usize)?,
            collect(segment, &|_| 0)?,
        ))
    }
}
