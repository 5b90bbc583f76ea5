//! No registers named: the compiler uses what every processor of its target has.

use super::{Element, F16, LANES, Lanes};

#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Lanes for Plain {
    type Block = [f32; LANES];

    #[inline(always)]
    unsafe fn zero() -> Self::Block {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Block {
        // SAFETY: the caller promised 32 numbers; an array of them needs no more alignment than one.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const F16) -> Self::Block {
        // SAFETY: as above.
        let halves: [F16; LANES] = unsafe { *from.cast() };
        halves.map(F16::value)
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Block, b: Self::Block, mut sum: Self::Block) -> Self::Block {
        for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(b, *sum);
        }
        sum
    }

    #[inline(always)]
    unsafe fn fold(mut block: Self::Block) -> f32 {
        let mut width = LANES / 2;
        while width > 0 {
            let (low, high) = block.split_at_mut(width);
            for (low, high) in low.iter_mut().zip(high.iter()) {
                *low += high;
            }
            width /= 2;
        }
        block[0]
    }

    #[inline(always)]
    unsafe fn prefetch(_address: *const u8) {}
}
