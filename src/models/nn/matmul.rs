//! Matrix products on views into flat buffers: operands are read where they lie, results written where they belong.
//!
//! This is the product for everything that has no better one: where many rows meet a weight see [`super::dense::multiply`],
//! which packs it, and for few rows [`super::skinny`].

/// A matrix inside a buffer of numbers.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
    /// Distance of two rows, and of two columns.
    pub strides: (usize, usize),
}

impl<'a> View<'a> {
    /// `rows` rows of `columns` dense numbers, `stride` apart, the first at `start`.
    pub fn new(values: &'a [f32], start: usize, rows: usize, columns: usize, stride: usize) -> Self {
        Self { values: &values[start..], rows, columns, strides: (stride, 1) }
    }

    /// The transposed matrix, in place.
    pub fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, strides: (self.strides.1, self.strides.0), ..self }
    }

    /// Whether the matrix ends inside its buffer.
    pub fn fits(&self) -> bool {
        reach(self.rows, self.columns, self.strides) <= self.values.len()
    }
}

/// Where a product goes: a matrix inside a buffer that other threads write elsewhere.
pub(super) struct Target<'a> {
    pub pointer: *mut f32,
    length: usize,
    /// Distance of two rows.
    pub stride: usize,
    buffer: std::marker::PhantomData<&'a mut [f32]>,
}

/// A buffer in which several threads write regions that do not overlap.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pointer: *mut f32,
    length: usize,
    buffer: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is only followed in `multiply`, whose callers promise in `Shared::at` that no two threads write one place.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub fn new(values: &'a mut [f32]) -> Self {
        Self { pointer: values.as_mut_ptr(), length: values.len(), buffer: std::marker::PhantomData }
    }

    /// The matrix whose first number is at `start` and whose rows are `stride` apart.
    ///
    /// # Safety
    /// While the result is used no other thread may read or write the numbers of that matrix.
    pub unsafe fn at(self, start: usize, stride: usize) -> Target<'a> {
        assert!(start <= self.length);
        // SAFETY: inside the buffer, or one past its end.
        let pointer = unsafe { self.pointer.add(start) };
        Target { pointer, length: self.length - start, stride, buffer: std::marker::PhantomData }
    }

    /// What follows the first `start` numbers.
    pub fn from(self, start: usize) -> Self {
        assert!(start <= self.length);
        // SAFETY: inside the buffer, or one past its end.
        Self { pointer: unsafe { self.pointer.add(start) }, length: self.length - start, ..self }
    }

    /// `length` numbers from `start` on.
    ///
    /// # Safety
    /// As for [`Shared::at`].
    #[allow(clippy::mut_from_ref)] // The buffer is shared on purpose; exclusiveness is what the caller promises.
    pub unsafe fn slice(&self, start: usize, length: usize) -> &mut [f32] {
        assert!(start + length <= self.length);
        // SAFETY: inside the buffer, and nobody else is at this place, as the caller promised.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), length) }
    }

    /// Adds dense rows of `columns` numbers to the matrix whose first number is at `start` and whose rows are `stride` apart.
    ///
    /// # Safety
    /// As for [`Shared::at`].
    pub unsafe fn add_rows(self, start: usize, stride: usize, rows: &[f32], columns: usize) {
        for (i, row) in rows.chunks_exact(columns).enumerate() {
            // SAFETY: nobody else is at this place, as the caller promised.
            let to = unsafe { self.slice(start + i * stride, columns) };
            to.iter_mut().zip(row).for_each(|(to, &from)| *to += from);
        }
    }
}

impl<'a> Target<'a> {
    /// A dense matrix with rows of `columns` numbers.
    pub fn dense(values: &'a mut [f32], columns: usize) -> Self {
        let (pointer, length) = (values.as_mut_ptr(), values.len());
        Self { pointer, length, stride: columns, buffer: std::marker::PhantomData }
    }

    /// Whether a matrix of that shape ends inside the buffer.
    pub fn holds(&self, rows: usize, columns: usize) -> bool {
        reach(rows, columns, (self.stride, 1)) <= self.length
    }
}

/// out = factor · a · b, or out += factor · a · b, on this thread.
pub(super) fn multiply(out: Target<'_>, a: View<'_>, b: View<'_>, factor: f32, add: bool) {
    product(out, a, b, factor, add, gemm::Parallelism::None);
}

/// [`multiply`] spread over the cores.
pub(super) fn multiply_on_all_cores(out: Target<'_>, a: View<'_>, b: View<'_>, factor: f32, add: bool) {
    product(out, a, b, factor, add, gemm::Parallelism::Rayon(rayon::current_num_threads()));
}

fn product(out: Target<'_>, a: View<'_>, b: View<'_>, factor: f32, add: bool, parallelism: gemm::Parallelism) {
    assert!(a.columns == b.rows && a.fits() && b.fits(), "matrices that do not belong together");
    assert!(out.holds(a.rows, b.columns), "a result that does not fit");
    // SAFETY: every place that is read or written was checked to be inside its buffer; `out` is exclusive by `Shared::at`.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.pointer,
            1,
            out.stride as isize,
            add,
            a.values.as_ptr(),
            a.strides.1 as isize,
            a.strides.0 as isize,
            b.values.as_ptr(),
            b.strides.1 as isize,
            b.strides.0 as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Numbers from the first to the last of a matrix, both included.
fn reach(rows: usize, columns: usize, strides: (usize, usize)) -> usize {
    if rows == 0 || columns == 0 {
        return 0;
    }
    (rows - 1) * strides.0 + (columns - 1) * strides.1 + 1
}
