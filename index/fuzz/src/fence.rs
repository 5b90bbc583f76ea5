//! Numbers that end where the process's memory ends: a read behind them is a fault, as it is with an address sanitizer, which
//! stable Rust has not.

use std::slice;

/// Numbers in pages of their own. The page behind them may not be touched.
pub(crate) struct Fenced {
    numbers: &'static mut [f32],
}

impl Fenced {
    /// So many numbers. Their pages are never given back.
    pub(crate) fn new(count: usize, number: impl Fn(usize) -> f32) -> Self {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = count * size_of::<f32>();
        let room = bytes.next_multiple_of(page);
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new pages, at an address that the system chooses.
        let pages = unsafe { libc::mmap(std::ptr::null_mut(), room + page, access, kind, -1, 0) };
        assert_ne!(pages, libc::MAP_FAILED, "{room} bytes of memory were expected");
        // SAFETY: both addresses are inside what was mapped; the numbers begin on a multiple of 4 since pages end on one, and
        // zeros are numbers.
        let (fence, numbers) = unsafe {
            let numbers = pages.cast::<u8>().add(room - bytes).cast::<f32>();
            (pages.cast::<u8>().add(room), slice::from_raw_parts_mut(numbers, count))
        };
        // SAFETY: the last page, which nothing lies in.
        assert_eq!(unsafe { libc::mprotect(fence.cast(), page, libc::PROT_NONE) }, 0);
        numbers.iter_mut().enumerate().for_each(|(at, slot)| *slot = number(at));
        Self { numbers }
    }

    /// The last so many numbers.
    pub(crate) fn last(&self, count: usize) -> &[f32] {
        &self.numbers[self.numbers.len() - count..]
    }

    /// Puts bytes, a multiple of 4, before the fence.
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> &[u8] {
        assert!(bytes.len().is_multiple_of(4), "whole numbers");
        let from = self.numbers.len() - bytes.len() / 4;
        for (slot, four) in self.numbers[from..].iter_mut().zip(bytes.chunks_exact(4)) {
            *slot = f32::from_ne_bytes([four[0], four[1], four[2], four[3]]);
        }
        // SAFETY: numbers are bytes, any of them; four times as many.
        unsafe { slice::from_raw_parts(self.numbers[from..].as_ptr().cast(), bytes.len()) }
    }
}

/// Few different values, so that scores are often equal.
pub(crate) fn number(at: u64) -> f32 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61) as f32 / 4.0 - 0.9
}
