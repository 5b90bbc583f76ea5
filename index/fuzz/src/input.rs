//! Decisions out of a fuzzer's bytes.

/// Bytes taken one after the other; after the last there are zeros, so that every input describes something.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn of(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// A number below `end`, which is at least 1.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let wide = if end > 256 { usize::from(self.byte()) << 8 } else { 0 };
        (wide | usize::from(self.byte())) % end
    }

    /// What was not taken.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

/// Writes over a byte or two, or none.
pub(crate) fn bend_bytes(content: &mut [u8], input: &mut Input<'_>) {
    while input.byte() >= 192 && !content.is_empty() {
        content[input.below(content.len())] = input.byte();
    }
}

/// The content of a file and its blake3 behind it.
pub(crate) fn with_checksum(mut content: Vec<u8>) -> Vec<u8> {
    let checksum = blake3::hash(&content);
    content.extend_from_slice(checksum.as_bytes());
    content
}

/// The file with one bit flipped, some times over, at places that depend on its content.
pub(crate) fn flipped(bytes: &[u8], times: usize) -> impl Iterator<Item = Vec<u8>> {
    let places = *blake3::hash(bytes).as_bytes();
    places.into_iter().zip(places.into_iter().skip(1)).step_by(2).take(times).map(|(high, low)| {
        let bit = (usize::from(high) << 8 | usize::from(low)) % (bytes.len() * 8);
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

/// Little-endian number at a place of a file; 0 behind its end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
