//! f32 products whose right side is packed once and then met by many rows: tiles that stay in the registers of AVX-512.
//!
//! A right side (K, N) lies in strips of up to 48 columns; in each, its K rows one after the other. A tile is 8 rows of the
//! left side, read where they lie, times one strip: 24 registers of sums, 3 of the strip and 1 of the left side. Every sum
//! runs in the order of K, whatever the tile, so that a row has the same bits wherever it stands.
//!
//! Other processors multiply with [`super::matmul`]; see [`available`].

use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use super::kernel::Aligned;
use super::matmul::{Target, View};
use super::tiles::{LANES, TILE_BLOCKS, TILE_ROWS};

/// Whether the processor has what [`Packed`] needs.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The right side of products.
#[derive(Default)]
pub(super) struct Packed {
    /// K and N.
    depth: usize,
    columns: usize,
    /// Blocks of 16 columns of every strip but the last, which has what is left.
    blocks: usize,
    /// The strips; columns after the last are 0.
    values: Aligned,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "packed ({}, {})", self.depth, self.columns)
    }
}

impl Packed {
    /// Packs `b` on all cores, in strips as [`super::tiles::each_job`] cuts them. Needs [`available`].
    pub fn on_all_cores(b: View<'_>) -> Self {
        let (mut packed, width) = (Self::default(), TILE_BLOCKS * LANES);
        packed
            .shape(b.rows, b.columns, TILE_BLOCKS)
            .par_chunks_mut(b.rows * width)
            .enumerate()
            .for_each(|(strip, to)| pack_strip(b, strip * width, to));
        packed
    }

    /// Packs `b` in the place of what was here, on this thread. Needs [`available`].
    pub fn take(&mut self, b: View<'_>) {
        // Four blocks go as two and two: a strip of one block has too few sums to keep the processor busy.
        let blocks = if b.columns.div_ceil(LANES) == 4 { 2 } else { TILE_BLOCKS };
        let width = blocks * LANES;
        for (strip, to) in self.shape(b.rows, b.columns, blocks).chunks_mut(b.rows * width).enumerate() {
            pack_strip(b, strip * width, to);
        }
    }

    /// Columns of every strip but the last.
    pub fn strip_columns(&self) -> usize {
        self.blocks * LANES
    }

    /// Columns with those that fill the last block.
    pub fn padded_columns(&self) -> usize {
        self.columns.div_ceil(LANES) * LANES
    }

    /// Takes on a shape; the room of the strips.
    fn shape(&mut self, depth: usize, columns: usize, blocks: usize) -> &mut [f32] {
        assert!(depth > 0 && columns > 0, "an empty right side");
        (self.depth, self.columns, self.blocks) = (depth, columns, blocks);
        let length = depth * self.padded_columns();
        self.values.take(length)
    }

    /// `to = x · b[depth, columns] + bias[columns]`, for all rows of `x`, on this thread. Columns begin at a strip and end where
    /// one ends, counted with their padding or without. Needs [`available`].
    pub fn multiply(
        &self,
        x: View<'_>,
        depth: Range<usize>,
        columns: Range<usize>,
        to: &Target<'_>,
        bias: Option<&[f32]>,
    ) {
        let width = self.strip_columns();
        assert!(available() && x.columns == depth.len() && depth.end <= self.depth && x.strides.1 == 1 && x.fits());
        assert!(columns.start.is_multiple_of(width) && columns.end <= self.padded_columns());
        assert!(columns.end >= self.columns || columns.end.is_multiple_of(width), "columns that end inside a strip");
        assert!(to.holds(x.rows, columns.len()) && bias.is_none_or(|bias| bias.len() >= columns.end));
        for first in columns.clone().step_by(width) {
            let padded = width.min(self.padded_columns() - first);
            let own = padded.min(columns.end - first);
            let at = first * self.depth + depth.start * padded;
            let strip = &self.values.get()[at..at + depth.len() * padded];
            let bias = bias.map(|bias| &bias[first..first + own]);
            for row in (0..x.rows).step_by(TILE_ROWS) {
                let rows = TILE_ROWS.min(x.rows - row);
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the processor has AVX-512, and both sides and the result were checked to hold every place.
                unsafe {
                    avx512::Tile {
                        x: x.values.as_ptr().add(row * x.strides.0),
                        x_stride: x.strides.0,
                        strip: strip.as_ptr(),
                        depth: depth.len(),
                        y: to.pointer.add(row * to.stride + first - columns.start),
                        y_stride: to.stride,
                        columns: own,
                        bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
                    }
                    .multiply(rows, padded / LANES);
                }
            }
        }
    }
}

/// Columns of `b` from `first` on, as many as `to` has room for, 0 after the last.
fn pack_strip(b: View<'_>, first: usize, to: &mut [f32]) {
    assert!(available() && b.fits() && to.len().is_multiple_of(b.rows * LANES) && first < b.columns);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor has AVX-512; `b` and `to` hold what is read and written by the lengths checked just now.
    unsafe {
        match b.strides {
            (_, 1) => avx512::pack_rows(b, first, to),
            (1, _) => avx512::pack_columns(b, first, to),
            strides => unreachable!("a right side that is dense in neither direction: {strides:?}"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every size of tile, both ways to lie, parts of depth and columns: against sums in f64.
    #[test]
    fn is_the_product() {
        if !available() {
            return;
        }
        let noise = |seed: u32, n: usize| -> Vec<f32> {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            (0..n).map(|_| next()).collect()
        };
        for (rows, depth, columns) in [(8, 32, 48), (19, 37, 100), (5, 130, 64), (1, 1, 1), (64, 16, 17), (7, 48, 112)]
        {
            let (x, b, bias) = (noise(1, rows * depth), noise(2, depth * columns), noise(3, columns + LANES));
            let dense = View::new(&b, 0, depth, columns, columns);
            let turned: Vec<f32> = (0..columns * depth).map(|at| b[at % depth * columns + at / depth]).collect();
            let turned = View::new(&turned, 0, columns, depth, depth).transposed();
            let mut packed = Packed::default();
            packed.take(turned);
            let want = |row: usize, column: usize, depths: Range<usize>| -> f64 {
                let product = |k: usize| f64::from(x[row * depth + k]) * f64::from(b[k * columns + column]);
                depths.map(product).sum::<f64>()
            };
            let check = |y: &[f32], row: usize, column: usize, want: f64| {
                let got = f64::from(y[row * columns + column]);
                assert!((got - want).abs() < 1e-5, "({rows}, {depth}, {columns}) at {row}, {column}: {got} {want}");
            };
            let half = depth / 2;
            let mut y = vec![7f32; rows * columns];
            let part = View::new(&x, half, rows, depth - half, depth);
            packed.multiply(part, half..depth, 0..columns, &Target::dense(&mut y, columns), None);
            (0..rows * columns).for_each(|at| {
                check(&y, at / columns, at % columns, want(at / columns, at % columns, half..depth));
            });
            let whole = View::new(&x, 0, rows, depth, depth);
            for from in (0..columns).step_by(TILE_BLOCKS * LANES) {
                let mut y = vec![7f32; rows * columns];
                // SAFETY: nobody else uses the buffer meanwhile.
                let to = unsafe { super::super::matmul::Shared::new(&mut y).at(from, columns) };
                Packed::on_all_cores(dense).multiply(whole, 0..depth, from..columns, &to, Some(&bias));
                for (row, column) in (0..rows * columns).map(|at| (at / columns, at % columns)) {
                    let sum = want(row, column, 0..depth) + f64::from(bias[column]);
                    check(&y, row, column, if column < from { 7.0 } else { sum });
                }
            }
        }
    }
}
