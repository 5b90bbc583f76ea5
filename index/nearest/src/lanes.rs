//! Inner products on the machine's vector registers, the same bits on every machine.
//!
//! A product is 32 partial sums: element `i` goes into sum `i mod 32` by one fused multiply-add, as far as whole blocks of 32
//! go. The sums are folded in halves (`i` with `i + 16`, then with `i + 8`, down to one), and what follows the last whole block
//! is added element by element, fused too. Registers of 16 lanes, of 8, of 4 or of one follow the same order, and IEEE 754 leaves
//! nothing else open: so AVX-512, AVX2, NEON and plain code agree to the bit. On an x86-64 processor without FMA, of before 2013,
//! each fused step is a slow library call.

#[cfg(target_arch = "aarch64")]
mod arm;
mod codes;
mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;
pub(crate) use codes::{Element, F16};
pub(crate) use plain::Plain;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Partial sums of one product.
pub(crate) const LANES: usize = 32;

/// Registers of one kind of machine.
///
/// # Safety
/// All functions need a processor that has the registers; those that take pointers read as much as they say from each.
pub(crate) trait Lanes: Copy {
    /// 32 numbers in registers.
    type Block: Copy;
    /// 32 zeros.
    unsafe fn zero() -> Self::Block;
    /// Reads 32 numbers.
    unsafe fn load(from: *const f32) -> Self::Block;
    /// Reads 32 float16 as the float32 that they are.
    unsafe fn load_f16(from: *const F16) -> Self::Block;
    /// `a * b + sum` in each lane, rounded once.
    unsafe fn mul_add(a: Self::Block, b: Self::Block, sum: Self::Block) -> Self::Block;
    /// The sum of 32 lanes, folded in halves.
    unsafe fn fold(block: Self::Block) -> f32;
    /// The same for four.
    #[inline(always)]
    unsafe fn fold4(blocks: [Self::Block; 4]) -> [f32; 4] {
        // SAFETY: what the caller promised.
        unsafe { [Self::fold(blocks[0]), Self::fold(blocks[1]), Self::fold(blocks[2]), Self::fold(blocks[3])] }
    }
    /// Asks for the line of the cache that holds this address.
    unsafe fn prefetch(address: *const u8);
    /// Products of one vector with four: each of `dim` numbers.
    #[inline(always)]
    unsafe fn four<E: Element>(one: *const f32, four: [*const E; 4], dim: usize) -> [f32; 4] {
        // SAFETY: what the caller promised.
        unsafe {
            let [[a, b]] = tile::<Self, E, 1, 2>([one], [four[0], four[1]], dim);
            let [[c, d]] = tile::<Self, E, 1, 2>([one], [four[2], four[3]], dim);
            [a, b, c, d]
        }
    }
    /// Products of two vectors with four.
    #[inline(always)]
    unsafe fn eight(two: [*const f32; 2], four: [*const f32; 4], dim: usize) -> [[f32; 4]; 2] {
        // SAFETY: what the caller promised.
        unsafe { [Self::four(two[0], four, dim), Self::four(two[1], four, dim)] }
    }
    /// Products of a question's codes with those of four rows: each of `len` codes, a multiple of 64. The caller sees to it that
    /// no sum overflows. Whole numbers add up to the same in any order.
    #[inline(always)]
    unsafe fn four_int8(question: *const i16, rows: [*const i8; 4], len: usize) -> [i32; 4] {
        let mut sums = [0i32; 4];
        for (sum, row) in sums.iter_mut().zip(rows) {
            for at in 0..len {
                // Codes of a damaged file can be -128 and their sum too large: registers go round then, and so does this.
                // SAFETY: the caller promised `len` codes.
                *sum = sum.wrapping_add(unsafe { i32::from(*row.add(at)) * i32::from(*question.add(at)) });
            }
        }
        sums
    }
}

/// Products of each of Q vectors with each of P, all of `dim` numbers.
///
/// # Safety
/// As for [`Lanes`]; every pointer leads to `dim` numbers.
#[inline(always)]
pub(crate) unsafe fn tile<L: Lanes, E: Element, const Q: usize, const P: usize>(
    left: [*const f32; Q],
    right: [*const E; P],
    dim: usize,
) -> [[f32; P]; Q] {
    // SAFETY: the caller promised the processor and `dim` numbers behind each pointer; no index reaches `dim`.
    unsafe {
        let mut sums = [[L::zero(); P]; Q];
        let whole = dim / LANES * LANES;
        let mut at = 0;
        while at < whole {
            // No closures around registers: a closure is compiled for a processor that may not have them.
            let mut blocks = [L::zero(); P];
            for (block, pointer) in blocks.iter_mut().zip(right) {
                *block = E::load::<L>(pointer.add(at));
            }
            for (sums, pointer) in sums.iter_mut().zip(left) {
                let left = L::load(pointer.add(at));
                for (sum, right) in sums.iter_mut().zip(blocks) {
                    *sum = L::mul_add(left, right, *sum);
                }
            }
            at += LANES;
        }
        let mut products = [[0f32; P]; Q];
        for ((products, sums), left) in products.iter_mut().zip(sums).zip(left) {
            if P == 4 {
                let folded = L::fold4([sums[0], sums[1 % P], sums[2 % P], sums[3 % P]]);
                products.copy_from_slice(&folded[..P]);
            } else {
                for (product, sum) in products.iter_mut().zip(sums) {
                    *product = L::fold(sum);
                }
            }
            for (product, right) in products.iter_mut().zip(right) {
                *product += tail(left, right, whole, dim);
            }
        }
        products
    }
}

/// The product of what follows the last whole block. Adding +0 makes a -0 into +0, so that equal scores also compare equal by
/// their bits.
///
/// # Safety
/// Both pointers lead to `dim` numbers.
#[inline(always)]
unsafe fn tail<E: Element>(left: *const f32, right: *const E, from: usize, dim: usize) -> f32 {
    let mut sum = 0f32;
    for at in from..dim {
        // SAFETY: `at` is below `dim`.
        sum = unsafe { (*left.add(at)).mul_add((*right.add(at)).value(), sum) };
    }
    sum + 0.0
}

/// Which registers a processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// 16 lanes: AVX-512 with its instructions on words (BW), which only Xeon Phi lacks.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 8 lanes: AVX2 with FMA and F16C, which came together.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 4 lanes: NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// What the compiler makes of plain code.
    Plain,
}

impl Level {
    /// The widest that this processor has.
    #[inline]
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bw") {
                return Level::Avx512;
            }
            if has!("avx2") && has!("fma") && has!("f16c") {
                return Level::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            return Level::Neon;
        }
        Level::Plain
    }
}

/// Defines `$name`, which runs the generic function `$body` compiled for the registers of a [`Level`]. Both may have one more
/// parameter.
macro_rules! on_level {
    ($(#[$doc:meta])* $visible:vis fn $name:ident$(<$generic:ident: $bound:path>)?($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)? = $body:ident) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $visible fn $name$(<$generic: $bound>)?(level: $crate::lanes::Level, $($argument: $type),*) $(-> $output)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512$(<$generic: $bound>)?($($argument: $type),*) $(-> $output)? {
                // SAFETY: this function runs only where the processor has the registers.
                unsafe { $body::<$crate::lanes::Avx512 $(, $generic)?>($($argument),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2$(<$generic: $bound>)?($($argument: $type),*) $(-> $output)? {
                // SAFETY: this function runs only where the processor has the registers.
                unsafe { $body::<$crate::lanes::Avx2 $(, $generic)?>($($argument),*) }
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn neon$(<$generic: $bound>)?($($argument: $type),*) $(-> $output)? {
                // SAFETY: this function runs only where the processor has the registers.
                unsafe { $body::<$crate::lanes::Neon $(, $generic)?>($($argument),*) }
            }
            match level {
                // SAFETY: a level is only ever one that the processor was asked for.
                #[cfg(target_arch = "x86_64")]
                $crate::lanes::Level::Avx512 => unsafe { avx512$(::<$generic>)?($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::lanes::Level::Avx2 => unsafe { avx2$(::<$generic>)?($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "aarch64")]
                $crate::lanes::Level::Neon => unsafe { neon$(::<$generic>)?($($argument),*) },
                // SAFETY: plain code runs everywhere.
                $crate::lanes::Level::Plain => unsafe { $body::<$crate::lanes::Plain $(, $generic)?>($($argument),*) },
            }
        }
    };
}
pub(crate) use on_level;

/// All levels that this processor has.
#[cfg(test)]
pub(crate) fn levels() -> Vec<Level> {
    let mut levels = vec![Level::best()];
    #[cfg(target_arch = "x86_64")]
    if levels == [Level::Avx512] {
        levels.push(Level::Avx2);
    }
    if !levels.contains(&Level::Plain) {
        levels.push(Level::Plain);
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    /// # Safety
    /// As for [`tile`].
    #[inline(always)]
    unsafe fn all<L: Lanes>(left: &[f32], right: &[f32], dim: usize) -> Vec<f32> {
        let row = |of: &[f32], at: usize| of[at * dim..(at + 1) * dim].as_ptr();
        let two = [row(left, 0), row(left, 1)];
        let four = [0, 1, 2, 3].map(|at| row(right, at));
        // SAFETY: every pointer leads to a row of `dim` numbers.
        unsafe {
            let mut found = L::eight(two, four, dim).concat();
            found.extend(L::four(two[1], four, dim));
            found.extend(tile::<L, f32, 1, 1>([two[0]], [four[3]], dim)[0]);
            found
        }
    }

    on_level! { fn all_on(left: &[f32], right: &[f32], dim: usize) -> Vec<f32> = all }

    #[test]
    fn every_kind_of_register_gives_the_bits_of_the_written_order() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
        for dim in [1, 7, 31, 32, 33, 64, 96, 100, 384, 385, 415] {
            let mut draw = |rows: usize| -> Vec<f32> { (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect() };
            let (left, right) = (draw(2), draw(4));
            let written = |q: usize, p: usize| {
                let (a, b) = (&left[q * dim..(q + 1) * dim], &right[p * dim..(p + 1) * dim]);
                let whole = dim / 32 * 32;
                let mut sums = [0f32; 32];
                for at in 0..whole {
                    sums[at % 32] = a[at].mul_add(b[at], sums[at % 32]);
                }
                for width in [16, 8, 4, 2, 1] {
                    for at in 0..width {
                        sums[at] += sums[at + width];
                    }
                }
                let tail = (whole..dim).fold(0f32, |sum, at| a[at].mul_add(b[at], sum));
                sums[0] + (tail + 0.0)
            };
            let mut expected: Vec<u32> =
                [0, 1, 1].iter().flat_map(|q| (0..4).map(|p| written(*q, p).to_bits())).collect();
            expected.push(written(0, 3).to_bits());
            for level in levels() {
                let found: Vec<u32> = all_on(level, &left, &right, dim).iter().map(|value| value.to_bits()).collect();
                assert_eq!(found, expected, "{level:?}, {dim} numbers");
            }
        }
    }
}
