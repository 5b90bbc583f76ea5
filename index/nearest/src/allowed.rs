//! A set of passages: the ones that a search may return.

use crate::graph::Refused;

/// Some of `len` passages, as one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    words: Vec<u64>,
    len: usize,
    count: usize,
}

impl Allowed {
    /// The passages with these ordinals, out of `len`; an ordinal may come twice. Refuses one that is not among them.
    pub fn new(len: usize, ordinals: impl IntoIterator<Item = u32>) -> Result<Self, Refused> {
        let mut set = Self { words: vec![0; len.div_ceil(64)], len, count: 0 };
        for ordinal in ordinals {
            if ordinal as usize >= len {
                let expected = "an ordinal below the number of passages";
                return Err(Refused { name: "an allowed passage", value: ordinal.to_string(), expected });
            }
            let (word, bit) = (ordinal as usize / 64, 1 << (ordinal % 64));
            set.count += usize::from(set.words[word] & bit == 0);
            set.words[word] |= bit;
        }
        Ok(set)
    }

    /// Out of how many passages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no passages to choose from.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many are in the set.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether a passage is in the set; one beyond the last is not.
    pub fn contains(&self, ordinal: u32) -> bool {
        self.words.get(ordinal as usize / 64).is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
    }

    /// The ordinals in the set, ascending.
    pub fn ordinals(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(at as u32 * 64 + bit)
            })
        })
    }

    /// What is in the set from this ordinal on.
    pub fn from(&self, first: u32) -> Allowed {
        let mut words = self.words.clone();
        let at = (first as usize / 64).min(words.len());
        words[..at].fill(0);
        if let Some(word) = words.get_mut(at) {
            *word &= u64::MAX << (first % 64);
        }
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Allowed { words, len: self.len, count }
    }

    /// What is in both sets; they are of the same passages.
    pub fn and(&self, other: &Allowed) -> Allowed {
        let words: Vec<u64> = self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect();
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        Allowed { words, len: self.len.min(other.len), count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set = Allowed::new(130, [0, 63, 64, 129, 64]).unwrap();
        assert_eq!(set.ordinals().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert_eq!((set.count(), set.len()), (4, 130));
        for ordinal in 0..400 {
            assert_eq!(set.contains(ordinal), [0, 63, 64, 129].contains(&ordinal), "{ordinal}");
        }
        let other = Allowed::new(130, [1, 63, 129]).unwrap();
        assert_eq!(set.and(&other), Allowed::new(130, [63, 129]).unwrap());
        assert_eq!(set.from(64), Allowed::new(130, [64, 129]).unwrap());
        assert_eq!((set.from(65).count(), set.from(0), set.from(500).count()), (1, set.clone(), 0));
        assert!(Allowed::new(130, [130]).unwrap_err().value.contains("130"));
        assert_eq!(Allowed::new(0, []).unwrap().ordinals().count(), 0);
    }
}
