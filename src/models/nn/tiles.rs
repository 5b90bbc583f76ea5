//! How products with packed weights are cut into tiles that stay in registers and jobs that spread over the cores.
//!
//! A packed weight holds its outputs in blocks of 16, one vector register wide. A tile is `TILE_ROWS` rows times
//! `TILE_BLOCKS` blocks: 24 registers of sums, 3 of weights and 1 of x, of the 32 there are. A strip is the blocks of one
//! tile over all inputs.

use std::ops::Range;

use rayon::prelude::*;

use super::matmul::{Shared, Target};

/// Outputs that one vector register holds.
pub(super) const LANES: usize = 16;
/// Blocks of outputs of one tile.
pub(super) const TILE_BLOCKS: usize = 3;
/// Rows of one tile.
pub(super) const TILE_ROWS: usize = 8;
/// Rows that one job takes at a time: their packed numbers and one strip of weights fit the second-level cache.
const ROWS: usize = 64;

/// Rows of a tile that 16 registers of 8 numbers hold: 8 of sums, up to 4 of weights, 1 of x, 1 of products.
#[cfg(target_arch = "x86_64")]
pub(super) const SMALL_ROWS: usize = 4;

/// A tile of processors whose registers hold 8 numbers: [`SMALL_ROWS`] rows or fewer times a part of a block.
#[cfg(target_arch = "x86_64")]
pub(super) struct Small {
    pub row: usize,
    pub rows: usize,
    pub block: usize,
    /// Its first output in the block.
    pub first: usize,
}

/// The small tiles of some rows and blocks that are cut into parts of `outputs`.
#[cfg(target_arch = "x86_64")]
pub(super) fn small_tiles(rows: usize, blocks: usize, outputs: usize) -> impl Iterator<Item = Small> {
    let parts = LANES / outputs;
    (0..rows).step_by(SMALL_ROWS).flat_map(move |row| {
        (0..blocks * parts).map(move |part| Small {
            row,
            rows: SMALL_ROWS.min(rows - row),
            block: part / parts,
            first: part % parts * outputs,
        })
    })
}

/// Runs `work(rows, outputs, y)` over all rows and outputs of a product with `out` outputs, in parallel; each job writes its
/// own rows and outputs of `y` alone, through [`Part::row`]. Outputs begin at a strip.
pub(super) fn each_job(y: &mut [f32], out: usize, work: impl Fn(Range<usize>, Range<usize>, Part<'_>) + Sync) {
    let rows = y.len() / out;
    let strips = out.div_ceil(TILE_BLOCKS * LANES);
    let row_chunks = rows.div_ceil(ROWS);
    // Few rows, as when single tokens are decoded: the outputs are spread instead.
    let groups = (4 * rayon::current_num_threads()).div_ceil(row_chunks).clamp(1, strips);
    let per_group = strips.div_ceil(groups);
    let groups = strips.div_ceil(per_group);
    let shared = Shared::new(y);
    (0..row_chunks * groups).into_par_iter().for_each(|job| {
        let (chunk, group) = (job / groups, job % groups);
        let rows = chunk * ROWS..(chunk * ROWS + ROWS).min(rows);
        let strips = group * per_group..(group * per_group + per_group).min(strips);
        let outputs = strips.start * TILE_BLOCKS * LANES..(strips.end * TILE_BLOCKS * LANES).min(out);
        work(rows.clone(), outputs.clone(), Part { y: shared, out, rows, outputs });
    });
}

/// The rows and outputs of one job.
pub(super) struct Part<'a> {
    y: Shared<'a>,
    out: usize,
    rows: Range<usize>,
    outputs: Range<usize>,
}

impl Part<'_> {
    /// The whole part as one matrix.
    pub fn target(&mut self) -> Target<'_> {
        // SAFETY: jobs have disjoint rows or outputs, and this one lends its part out once at a time.
        unsafe { self.y.at(self.rows.start * self.out + self.outputs.start, self.out) }
    }

    /// Outputs `outputs` of row `row`; both must be the job's own.
    pub fn row(&mut self, row: usize, outputs: Range<usize>) -> &mut [f32] {
        assert!(self.rows.contains(&row) && self.outputs.start <= outputs.start && outputs.end <= self.outputs.end);
        // SAFETY: jobs have disjoint rows or outputs, and this one lends its part out once at a time.
        unsafe { self.y.slice(row * self.out + outputs.start, outputs.len()) }
    }
}
