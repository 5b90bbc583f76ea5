//! Numbers that vectors may consist of, and how they are read as float32.

use super::Lanes;

/// A number that is read as a float32.
pub(crate) trait Element: Copy {
    /// Reads 32 numbers.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const Self) -> L::Block;

    /// The number as float32.
    fn value(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::Block {
        // SAFETY: what the caller promised.
        unsafe { L::load(from) }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

/// The bits of a float16 that is finite. Every one is also a float32, so that all machines read the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct F16(pub(crate) u16);

impl Element for F16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::Block {
        // SAFETY: what the caller promised.
        unsafe { L::load_f16(from) }
    }

    #[inline(always)]
    fn value(self) -> f32 {
        // As a float32 its bits mean a number that is 2^112 times too small, also where it has no leading one.
        const SCALE: f32 = f32::from_bits((127 + 112) << 23);
        let size = f32::from_bits(u32::from(self.0 & 0x7fff) << 13) * SCALE;
        f32::from_bits(size.to_bits() | u32::from(self.0 & 0x8000) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::{LANES, levels, on_level};

    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn read<L: Lanes>(halves: &[F16]) -> Vec<f32> {
        let mut values = Vec::with_capacity(halves.len());
        for chunk in halves.chunks_exact(LANES) {
            for at in 0..LANES {
                // All others times zero: what is left of the sum is this one.
                let mut only = [0f32; LANES];
                only[at] = 1.0;
                // SAFETY: the caller promised the processor; both have 32 numbers.
                values.push(unsafe {
                    L::fold(L::mul_add(L::load(only.as_ptr()), L::load_f16(chunk.as_ptr()), L::zero()))
                });
            }
        }
        values
    }

    on_level! { fn read_on(halves: &[F16]) -> Vec<f32> = read }

    #[test]
    fn every_finite_half_is_read_as_what_it_is_on_every_level() {
        let finite: Vec<F16> = (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00).map(F16).collect();
        let known: Vec<f32> = finite.iter().map(|bits| half::f16::from_bits(bits.0).to_f32()).collect();
        assert!(finite.iter().zip(&known).all(|(bits, known)| bits.value().to_bits() == known.to_bits()));
        assert_eq!(finite.len() % LANES, 0);
        for level in levels() {
            assert_eq!(read_on(level, &finite), known, "{level:?}");
        }
    }

    /// # Safety
    /// As for [`Lanes`].
    #[inline(always)]
    unsafe fn products<L: Lanes>(question: &[i16], rows: &[i8]) -> [i32; 4] {
        let len = question.len();
        // SAFETY: the caller promised the processor; there are four rows of the question's length.
        unsafe { L::four_int8(question.as_ptr(), [0, 1, 2, 3].map(|row| rows[row * len..][..len].as_ptr()), len) }
    }

    on_level! { fn products_on(question: &[i16], rows: &[i8]) -> [i32; 4] = products }

    #[test]
    fn products_of_codes_are_those_of_plain_arithmetic_also_at_the_ends_of_their_range() {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        for len in [64, 128, 384, 1024] {
            let most = (i32::MAX / (127 * len as i32)).min(i32::from(i16::MAX)) as i16;
            for extreme in [false, true] {
                let question: Vec<i16> =
                    (0..len).map(|_| if extreme { most } else { rng.random_range(-most..=most) }).collect();
                let rows: Vec<i8> = (0..4 * len)
                    .map(|at| match extreme {
                        true => [127, -127][at / len % 2],
                        false => rng.random_range(-127..=127),
                    })
                    .collect();
                let expected: Vec<i64> = rows
                    .chunks(len)
                    .map(|row| row.iter().zip(&question).map(|(a, b)| i64::from(*a) * i64::from(*b)).sum())
                    .collect();
                for level in levels() {
                    let found = products_on(level, &question, &rows).map(i64::from);
                    assert_eq!(found[..], expected[..], "{level:?} {len}");
                }
            }
        }
    }
}
