//! The index as bytes: little-endian, with a checksum at its end; nothing is used before it and every number were verified.
//! `FORMAT.md` of ragtune-index has the table.

use crate::bm25::{ABSENT, Bm25};
use crate::postings::Pairs;

const MAGIC: &[u8; 8] = b"rtlexic\n";
const FORMAT: u32 = 1;
const CHECKSUM: usize = 32;

/// What [`Bm25::decode`] says of an index that is whole and made from other passages, or by other rules of what a word is.
pub const OTHER: &str = "it belongs to other passages";

impl Bm25 {
    /// The bytes of the index. `belongs` is the identity of the passages that it is made from, for [`Bm25::decode`] to compare.
    pub fn encode(&self, belongs: &[u8; 32]) -> Vec<u8> {
        let numbers = 4 * (self.counts.len() + self.lengths.len()) + 16 * self.counts.len();
        let mut bytes = Vec::with_capacity(128 + self.terms.len() + self.postings.len() + numbers);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(belongs);
        bytes.extend_from_slice(&(self.lengths.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.counts.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.terms.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&(self.postings.len() as u64).to_le_bytes());
        self.lengths.iter().for_each(|length| bytes.extend_from_slice(&length.to_le_bytes()));
        self.counts.iter().for_each(|count| bytes.extend_from_slice(&count.to_le_bytes()));
        self.term_ends.iter().for_each(|end| bytes.extend_from_slice(&end.to_le_bytes()));
        self.list_ends.iter().for_each(|end| bytes.extend_from_slice(&end.to_le_bytes()));
        bytes.extend_from_slice(self.terms.as_bytes());
        bytes.extend_from_slice(&self.postings);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    /// The index in these bytes, or what is wrong with them.
    pub fn decode(bytes: &[u8], belongs: &[u8; 32]) -> Result<Self, String> {
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or("it is too short")?;
        if blake3::hash(content).as_bytes() != checksum {
            return Err("its checksum does not match its content".into());
        }
        let mut rest = content;
        if take(&mut rest, MAGIC.len())? != MAGIC {
            return Err("it is no index of words".into());
        }
        let format = u32s(&mut rest, 1)?;
        if format != [FORMAT] {
            return Err(format!("it has format {}, this program reads {FORMAT}", format.first().unwrap_or(&0)));
        }
        if take(&mut rest, belongs.len())? != belongs {
            return Err(OTHER.into());
        }
        let sizes = u32s(&mut rest, 2)?;
        let lengths_of_texts = u64s(&mut rest, 2)?;
        let (&[passages, terms], &[term_bytes, list_bytes]) = (sizes.as_slice(), lengths_of_texts.as_slice()) else {
            return Err("it is too short".into());
        };
        let lengths = u32s(&mut rest, passages as usize)?;
        let counts = u32s(&mut rest, terms as usize)?;
        let term_ends = u64s(&mut rest, terms as usize)?;
        let list_ends = u64s(&mut rest, terms as usize)?;
        let size = |bytes: u64| usize::try_from(bytes).map_err(|_| "it is larger than this machine's memory");
        let text = take(&mut rest, size(term_bytes)?)?;
        let terms = std::str::from_utf8(text).map_err(|_| "its words are not UTF-8")?.to_owned();
        let postings = take(&mut rest, size(list_bytes)?)?.to_vec();
        if !rest.is_empty() {
            return Err("it is longer than it says".into());
        }
        let index = Self { terms, term_ends, counts, postings, list_ends, lengths, ..Self::default() };
        index.verify()?;
        Ok(index.weighed())
    }

    /// Whether words are in order, lists are whole, and lengths are what the lists add up to.
    fn verify(&self) -> Result<(), String> {
        let ends =
            |ends: &[u64], total: usize| ends.is_sorted() && ends.last().copied().unwrap_or_default() == total as u64;
        if !ends(&self.term_ends, self.terms.len()) || !ends(&self.list_ends, self.postings.len()) {
            return Err("its offsets are out of order".into());
        }
        if self.term_ends.iter().any(|end| !self.terms.is_char_boundary(*end as usize)) {
            return Err("a word ends within a character".into());
        }
        let mut lengths: Vec<u64> = self.lengths.iter().map(|length| u64::from(*length % ABSENT)).collect();
        let mut before = "";
        for (term, count) in self.counts.iter().enumerate() {
            let name = self.name(term);
            if name <= before {
                return Err(format!("its word {term} is out of order"));
            }
            before = name;
            let mut pairs = Pairs::of(self.list(term));
            let mut held = 0u32;
            for (ordinal, count) in pairs.by_ref() {
                let left = lengths.get_mut(ordinal as usize).ok_or("a list names a passage that is not there")?;
                *left = left.checked_sub(u64::from(count)).ok_or("a passage holds more words than it is long")?;
                held += 1;
            }
            if !pairs.is_done() || held != *count || held == 0 {
                return Err(format!("the list of its word {term} is broken"));
            }
        }
        match lengths.iter().all(|left| *left == 0) {
            true => Ok(()),
            false => Err("a passage is longer than the words it holds".into()),
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest.split_at_checked(count).ok_or("it is too short")?;
    *rest = left;
    Ok(taken)
}

fn u32s(rest: &mut &[u8], count: usize) -> Result<Vec<u32>, String> {
    let bytes = take(rest, count.checked_mul(4).ok_or("it is too short")?)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
}

fn u64s(rest: &mut &[u8], count: usize) -> Result<Vec<u64>, String> {
    let bytes = take(rest, count.checked_mul(8).ok_or("it is too short")?)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;

    const BELONGS: [u8; 32] = [7; 32];

    fn index() -> Bm25 {
        let mut builder = Builder::new();
        for text in ["Rain falls on Spain", "", "The rain, the RAIN", "ünïcode 北京"] {
            builder.add(text);
        }
        builder.skip();
        builder.add("spain");
        builder.finish()
    }

    #[test]
    fn an_index_comes_back_and_no_cut_or_flipped_bit_passes_unnoticed() {
        let index = index();
        let bytes = index.encode(&BELONGS);
        assert_eq!(Bm25::decode(&bytes, &BELONGS).unwrap(), index);
        assert!(Bm25::decode(&bytes, &[8; 32]).unwrap_err().contains("other passages"));
        for length in 0..bytes.len() {
            assert!(Bm25::decode(&bytes[..length], &BELONGS).is_err(), "cut to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Bm25::decode(&bad, &BELONGS).is_err(), "bit {bit}");
        }
    }

    /// Bytes whose checksum holds are not believed either.
    #[test]
    fn broken_content_under_a_right_checksum_is_an_error() {
        let good = index().encode(&BELONGS);
        let content = good.len() - CHECKSUM;
        let mut accepted = 0;
        for at in 0..content {
            for change in [1u8, 128, 255] {
                let mut bad = good[..content].to_vec();
                bad[at] ^= change;
                let checksum = blake3::hash(&bad);
                bad.extend_from_slice(checksum.as_bytes());
                // A changed letter of a word may be another word; whatever is accepted must be searchable.
                if let Ok(index) = Bm25::decode(&bad, &BELONGS) {
                    accepted += 1;
                    index.search(&["rain spain 北 x"], 3, &[], None);
                }
            }
        }
        assert!(accepted < content / 4, "{accepted}");
        for length in 0..content {
            let mut bad = good[..length].to_vec();
            bad.extend_from_slice(blake3::hash(&good[..length]).as_bytes());
            assert!(Bm25::decode(&bad, &BELONGS).is_err(), "cut to {length}");
        }
    }
}
