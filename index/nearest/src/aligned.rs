//! Numbers in memory that begin on a line of the cache and, where they are many, lie on large pages.
//!
//! A row of vectors that begins on a line is read with a line less and without loads that straddle two. Large pages spare a
//! random read the walk through the page table.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Bytes of a line of the cache.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Numbers for which every pattern of bits is a value.
pub trait Number: Copy + PartialEq + fmt::Debug + Send + Sync + 'static + sealed::Sealed {}
impl Number for f32 {}
impl Number for u32 {}
impl Number for u8 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
    impl Sealed for u8 {}
}

/// A fixed number of numbers that begin on a line of the cache.
#[derive(Clone)]
pub struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Number> Aligned<T> {
    /// `len` zeros. Panics, as a vector does, where so many have more bytes than memory has addresses.
    pub fn zeros(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("no more bytes than memory has addresses");
        let count = bytes.div_ceil(LINE);
        let mut lines = Vec::new();
        if count > 0 {
            let layout = Layout::array::<Line>(count).expect("no more bytes than memory has addresses");
            // SAFETY: the layout is not empty. Many bytes come from the system as zeros that were not touched yet.
            let start = unsafe { alloc_zeroed(layout) }.cast::<Line>();
            if start.is_null() {
                handle_alloc_error(layout);
            }
            huge_pages(start, count * LINE);
            // SAFETY: they were just allocated with the layout of so many lines, and zeros are a line.
            lines = unsafe { Vec::from_raw_parts(start, count, count) };
        }
        Self { lines, len, kind: PhantomData }
    }
}

impl<T: Number> From<&[T]> for Aligned<T> {
    fn from(numbers: &[T]) -> Self {
        let mut own = Self::zeros(numbers.len());
        own.copy_from_slice(numbers);
        own
    }
}

impl<T: Number> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `len` numbers, are aligned for them, and any bits are a value of a `Number`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Number> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Number> PartialEq for Aligned<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Number> fmt::Debug for Aligned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Asks for large pages under what is about to be written. A wish: where it is not granted nothing is different but the speed.
#[cfg(target_os = "linux")]
fn huge_pages(start: *mut Line, bytes: usize) {
    const PAGE: usize = 4096;
    const HUGE: usize = 2 << 20;
    if bytes < 2 * HUGE {
        return;
    }
    let first = (start as usize).next_multiple_of(PAGE);
    let last = (start as usize + bytes) / PAGE * PAGE;
    // SAFETY: whole pages inside an allocation that is alive; the advice changes neither content nor access.
    unsafe { libc::madvise(first as *mut libc::c_void, last - first, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn huge_pages(_start: *mut Line, _bytes: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_on_a_line_and_stay_what_they_were() {
        for len in [0, 1, 15, 16, 17, 1 << 21] {
            let numbers: Vec<f32> = (0..len).map(|at| at as f32).collect();
            let own = Aligned::from(&numbers[..]);
            assert_eq!(own.as_ptr() as usize % LINE, 0);
            assert!(*own == numbers[..], "{len}");
        }
    }

    #[test]
    #[should_panic(expected = "no more bytes than memory has addresses")]
    fn more_numbers_than_memory_has_addresses_for_are_refused_before_any_is_laid_out() {
        Aligned::<f32>::zeros(usize::MAX / 4 + 2);
    }
}
