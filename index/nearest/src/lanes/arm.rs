//! NEON, which every 64-bit ARM processor has.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{F16, Lanes};

/// Eight registers of 4 lanes a block.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

impl Lanes for Neon {
    type Block = [float32x4_t; 8];

    #[inline(always)]
    unsafe fn zero() -> Self::Block {
        // SAFETY: the caller's processor has NEON; so in all of this implementation.
        unsafe { [vdupq_n_f32(0.0); 8] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Block {
        // SAFETY: the caller promised 32 numbers.
        unsafe { [0, 4, 8, 12, 16, 20, 24, 28].map(|at| vld1q_f32(from.add(at))) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const F16) -> Self::Block {
        // SAFETY: the caller promised 32 numbers.
        unsafe {
            [0, 4, 8, 12, 16, 20, 24, 28].map(|at| vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.add(at).cast()))))
        }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Block, b: Self::Block, mut sum: Self::Block) -> Self::Block {
        for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
            // SAFETY: see above.
            *sum = unsafe { vfmaq_f32(*sum, a, b) };
        }
        sum
    }

    #[inline(always)]
    unsafe fn fold(block: Self::Block) -> f32 {
        // SAFETY: see above.
        unsafe {
            let four = fold8(block);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    /// Four at once share their last two steps. Those of NEON that add pairs would add other lanes than half a register apart.
    #[inline(always)]
    unsafe fn fold4(blocks: [Self::Block; 4]) -> [f32; 4] {
        // SAFETY: see above.
        unsafe {
            let [a, b, c, d] = blocks.map(|block| {
                let four = fold8(block);
                vadd_f32(vget_low_f32(four), vget_high_f32(four))
            });
            // Pairs of what was folded twice: lane 0 with lane 1 of each.
            let sums = vpaddq_f32(vcombine_f32(a, b), vcombine_f32(c, d));
            let mut out = [0f32; 4];
            vst1q_f32(out.as_mut_ptr(), sums);
            out
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: asking for a line is a hint that cannot fault.
        unsafe {
            asm!("prfm pldl1keep, [{address}]", address = in(reg) address, options(nostack, preserves_flags, readonly))
        }
    }

    #[inline(always)]
    unsafe fn four_int8(question: *const i16, rows: [*const i8; 4], len: usize) -> [i32; 4] {
        // SAFETY: see above; every pointer leads to `len` codes, a multiple of 64.
        unsafe {
            // Two sums a row, so that one product need not wait for the one before.
            let mut sums = [[vdupq_n_s32(0); 2]; 4];
            for at in (0..len).step_by(16) {
                let asked = [vld1q_s16(question.add(at)), vld1q_s16(question.add(at + 8))];
                for (sum, row) in sums.iter_mut().zip(rows) {
                    let codes = vld1q_s8(row.add(at));
                    let (low, high) = (vmovl_s8(vget_low_s8(codes)), vmovl_high_s8(codes));
                    sum[0] = vmlal_s16(sum[0], vget_low_s16(low), vget_low_s16(asked[0]));
                    sum[1] = vmlal_high_s16(sum[1], low, asked[0]);
                    sum[0] = vmlal_s16(sum[0], vget_low_s16(high), vget_low_s16(asked[1]));
                    sum[1] = vmlal_high_s16(sum[1], high, asked[1]);
                }
            }
            sums.map(|[even, odd]| vaddvq_s32(vaddq_s32(even, odd)))
        }
    }
}

/// The sums of lanes that are 16, 8 and 4 apart: 32 lanes to 4.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn fold8(block: [float32x4_t; 8]) -> float32x4_t {
    // SAFETY: the caller's processor has NEON.
    unsafe {
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| vaddq_f32(block[at], block[at + 4]));
        vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d))
    }
}
