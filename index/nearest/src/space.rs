//! What a walk through the graph gets its scores from: the vectors themselves, or codes of them.

use crate::lanes::{F16, Lanes};

/// A question, and a row for each passage to compare it with.
pub(crate) trait Space {
    /// Scores of four passages.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn four<L: Lanes>(&self, ordinals: [u32; 4]) -> [f32; 4];

    /// Asks for the beginning of a passage's row.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn prefetch<L: Lanes>(&self, ordinal: u32);
}

/// Bytes of a row that are asked for ahead: the processor sees by itself that the others follow, and more requests than it can
/// keep in flight hold up the rest. Measured with float32: four lines give 12 % more questions a second than all, 5 % more than
/// none.
const AHEAD: usize = 256;

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn prefetch<L: Lanes, T>(of: &[T]) {
    for at in (0..size_of_val(of)).step_by(64) {
        // SAFETY: the caller promised the processor; the address is inside the slice.
        unsafe { L::prefetch(of.as_ptr().cast::<u8>().add(at)) };
    }
}

/// The vectors: `vectors` (N, D), `question` (D).
pub(crate) struct Exact<'a> {
    pub(crate) vectors: &'a [f32],
    pub(crate) dim: usize,
    pub(crate) question: &'a [f32],
}

impl Exact<'_> {
    #[inline(always)]
    fn row(&self, ordinal: u32) -> &[f32] {
        // Checked: what the kernels read is inside the vectors.
        &self.vectors[ordinal as usize * self.dim..][..self.dim]
    }
}

impl Space for Exact<'_> {
    #[inline(always)]
    unsafe fn four<L: Lanes>(&self, [a, b, c, d]: [u32; 4]) -> [f32; 4] {
        let rows = [self.row(a).as_ptr(), self.row(b).as_ptr(), self.row(c).as_ptr(), self.row(d).as_ptr()];
        // SAFETY: the caller promised the processor; rows and question have `dim` numbers.
        unsafe { L::four(self.question.as_ptr(), rows, self.dim) }
    }

    #[inline(always)]
    unsafe fn prefetch<L: Lanes>(&self, ordinal: u32) {
        let row = self.row(ordinal);
        // SAFETY: the caller promised the processor.
        unsafe { prefetch::<L, f32>(&row[..row.len().min(AHEAD / 4)]) }
    }
}

/// Rows of `stride` float16, of which the first D count: `question` (D).
pub(crate) struct Halves<'a> {
    pub(crate) rows: &'a [F16],
    pub(crate) stride: usize,
    pub(crate) question: &'a [f32],
}

impl Halves<'_> {
    #[inline(always)]
    fn row(&self, ordinal: u32) -> &[F16] {
        &self.rows[ordinal as usize * self.stride..][..self.stride]
    }
}

impl Space for Halves<'_> {
    #[inline(always)]
    unsafe fn four<L: Lanes>(&self, [a, b, c, d]: [u32; 4]) -> [f32; 4] {
        let rows = [self.row(a).as_ptr(), self.row(b).as_ptr(), self.row(c).as_ptr(), self.row(d).as_ptr()];
        // SAFETY: the caller promised the processor; rows have `stride` numbers, which are no fewer than the question's.
        unsafe { L::four::<F16>(self.question.as_ptr(), rows, self.question.len().min(self.stride)) }
    }

    #[inline(always)]
    unsafe fn prefetch<L: Lanes>(&self, ordinal: u32) {
        let row = self.row(ordinal);
        // SAFETY: the caller promised the processor.
        unsafe { prefetch::<L, F16>(&row[..row.len().min(AHEAD / 2)]) }
    }
}

/// Rows of `stride` whole numbers, a multiple of 64, and what each row is to be multiplied with; the question as whole numbers,
/// with zeros up to `stride`. Scores lack the question's own factor, which changes no order.
pub(crate) struct Bytes<'a> {
    pub(crate) rows: &'a [i8],
    pub(crate) scales: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) question: Vec<i16>,
}

impl<'a> Bytes<'a> {
    /// The question's numbers as whole ones: so large that no sum of `dim` products with numbers from -127 to 127 can leave 32
    /// bits, and 16 bits at most.
    pub(crate) fn new(rows: &'a [i8], scales: &'a [f32], stride: usize, question: &[f32]) -> Self {
        assert!(stride.is_multiple_of(64) && question.len() <= stride, "rows are padded to whole lines");
        let most = (i32::MAX as usize / (127 * stride)).min(i16::MAX as usize) as f32;
        let largest = question.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let mut codes = vec![0i16; stride];
        if largest > 0.0 {
            for (code, value) in codes.iter_mut().zip(question) {
                // In double precision: a question may be so long that its inverse is no float32.
                *code = (f64::from(*value) / f64::from(largest) * f64::from(most)).round() as i16;
            }
        }
        Self { rows, scales, stride, question: codes }
    }

    #[inline(always)]
    fn row(&self, ordinal: u32) -> &[i8] {
        &self.rows[ordinal as usize * self.stride..][..self.stride]
    }
}

impl Space for Bytes<'_> {
    #[inline(always)]
    unsafe fn four<L: Lanes>(&self, [a, b, c, d]: [u32; 4]) -> [f32; 4] {
        let rows = [self.row(a).as_ptr(), self.row(b).as_ptr(), self.row(c).as_ptr(), self.row(d).as_ptr()];
        let scale = |ordinal: u32| self.scales[ordinal as usize];
        // SAFETY: the caller promised the processor; rows and question have `stride` numbers.
        let sums = unsafe { L::four_int8(self.question.as_ptr(), rows, self.stride) };
        [
            sums[0] as f32 * scale(a) + 0.0,
            sums[1] as f32 * scale(b) + 0.0,
            sums[2] as f32 * scale(c) + 0.0,
            sums[3] as f32 * scale(d) + 0.0,
        ]
    }

    #[inline(always)]
    unsafe fn prefetch<L: Lanes>(&self, ordinal: u32) {
        let row = self.row(ordinal);
        // SAFETY: the caller promised the processor.
        unsafe {
            prefetch::<L, i8>(&row[..row.len().min(AHEAD)]);
            prefetch::<L, f32>(&self.scales[ordinal as usize..][..1]);
        }
    }
}
