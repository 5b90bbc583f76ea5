//! Lists of (ordinal, count), packed: gaps between ordinals and counts as base-128 numbers, about three bytes a pair.

/// A list that grows at its end.
#[derive(Debug, Default)]
pub(crate) struct List {
    pub(crate) bytes: Vec<u8>,
    pub(crate) pairs: u32,
    next: u64,
}

impl List {
    /// Adds a pair; `ordinal` must be above the last one's and `count` at least 1.
    pub(crate) fn push(&mut self, ordinal: u32, count: u32) {
        debug_assert!(u64::from(ordinal) >= self.next && count >= 1);
        put(&mut self.bytes, (u64::from(ordinal) - self.next) as u32);
        put(&mut self.bytes, count - 1);
        self.next = u64::from(ordinal) + 1;
        self.pairs += 1;
    }
}

/// The pairs of a packed list; ends early where the bytes are no list.
pub(crate) struct Pairs<'a> {
    bytes: &'a [u8],
    next: u64,
}

impl<'a> Pairs<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, next: 0 }
    }

    /// Whether every byte was read.
    pub(crate) fn is_done(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Iterator for Pairs<'_> {
    type Item = (u32, u32);

    #[inline]
    fn next(&mut self) -> Option<(u32, u32)> {
        let (gap, rest) = take(self.bytes)?;
        let (count, rest) = take(rest)?;
        let ordinal = u32::try_from(self.next + u64::from(gap)).ok()?;
        self.bytes = rest;
        self.next = u64::from(ordinal) + 1;
        Some((ordinal, count.checked_add(1)?))
    }
}

fn put(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[inline]
fn take(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (&first, mut rest) = bytes.split_first()?;
    if first < 128 {
        return Some((u32::from(first), rest));
    }
    let mut value = u64::from(first & 127);
    for shift in [7, 14, 21, 28] {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some((u32::try_from(value).ok()?, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_and_broken_bytes_end_the_list() {
        let pairs = [(0, 1), (1, 130), (127, 1), (300, u32::MAX), (70_000, 2), (u32::MAX, 1 << 20)];
        let mut list = List::default();
        for (ordinal, count) in pairs {
            list.push(ordinal, count);
        }
        assert_eq!(list.pairs as usize, pairs.len());
        let mut read = Pairs::of(&list.bytes);
        assert_eq!(read.by_ref().collect::<Vec<_>>(), pairs);
        assert!(read.is_done());
        for length in 0..list.bytes.len() {
            let mut cut = Pairs::of(&list.bytes[..length]);
            let found: Vec<_> = cut.by_ref().collect();
            assert_eq!(found, pairs[..found.len()], "cut to {length}");
        }
        // Numbers that do not fit end it too.
        for broken in [&[255, 255, 255, 255, 255, 0, 0][..], &[255, 255, 255, 255, 127, 0]] {
            let mut read = Pairs::of(broken);
            assert_eq!(read.next(), None);
            assert!(!read.is_done());
        }
    }
}
