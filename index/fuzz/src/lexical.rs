//! `lexical.bin`: whatever is accepted is written again as it was, and scores are those of the formula over the lists in it.

use std::collections::BTreeMap;

use ragtune_lexical::{B, Bm25, Builder, K1, OTHER, words};

use crate::input::{Input, bend_bytes, flipped, u32_at, with_checksum};

const MAGIC: &[u8] = b"rtlexic\n";
const BELONGS: [u8; 32] = [7; 32];
/// Where the numbers of passages and words begin.
const SIZES: usize = 44;
/// Length of an ordinal without a passage.
const ABSENT: u32 = u32::MAX;

/// Whether the input is an index of words; panics where one is not what it should be.
pub fn check(data: &[u8]) -> bool {
    let mut input = Input::of(data);
    let kind = input.byte();
    let bytes = match kind % 3 {
        0 => input.rest().to_vec(),
        1 => with_checksum([&head()[..], input.rest()].concat()),
        _ => described(&mut input),
    };
    examine(&bytes, usize::from(kind / 3))
}

/// Files of a few texts, and descriptions.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![2], (0..80u8).map(|at| at.wrapping_mul(7).wrapping_add(2)).collect()];
    let texts = ["Rain falls on Spain", "", "The rain, the RAIN", "ünïcode 北京 3.14", "spain"];
    for count in [0, 1, texts.len()] {
        let mut builder = Builder::new();
        texts[..count].iter().for_each(|text| builder.add(text));
        builder.skip();
        let file = builder.finish().encode(&BELONGS);
        seeds.push([&[0], &file[..]].concat());
        seeds.push([&[1], &file[SIZES..file.len() - 32]].concat());
    }
    seeds
}

fn head() -> Vec<u8> {
    [MAGIC, &1u32.to_le_bytes(), &BELONGS].concat()
}

/// A file in which most numbers agree with one another. Its words are numbers, which no rule changes.
fn described(input: &mut Input<'_>) -> Vec<u8> {
    let (passages, terms) = (input.below(40), input.below(12) as u32);
    let mut lengths: Vec<u32> = (0..passages).map(|_| if input.byte() == 255 { ABSENT } else { 0 }).collect();
    let (mut names, mut lists) = (String::new(), Vec::new());
    let (mut counts, mut name_ends, mut list_ends) = (Vec::new(), Vec::new(), Vec::new());
    for term in 0..terms {
        let (mut held, mut last) = (0u32, -1);
        for (ordinal, length) in lengths.iter_mut().enumerate() {
            let count = match input.byte() {
                byte @ 0..64 => u32::from(byte) + 1,
                64 => 1 << 20,
                _ => continue,
            };
            if *length != ABSENT {
                *length += count;
                put(&mut lists, (ordinal as i64 - last - 1) as u32);
                put(&mut lists, count - 1);
                (held, last) = (held + 1, ordinal as i64);
            }
        }
        if held == 0 {
            continue;
        }
        // Once in a while the word before once more.
        let term = if input.byte() == 255 { term.saturating_sub(1) } else { term };
        names.push_str(&(10 + term).to_string());
        counts.push(held);
        name_ends.push(names.len() as u64);
        list_ends.push(lists.len() as u64);
    }
    let mut file = head();
    let mut put_all = |numbers: &[u32]| file.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    put_all(&[passages as u32, counts.len() as u32]);
    let sizes = [names.len() as u64, lists.len() as u64];
    put_all(&sizes.map(|size| [size as u32, 0]).concat());
    put_all(&lengths);
    put_all(&counts);
    file.extend(name_ends.into_iter().chain(list_ends).flat_map(u64::to_le_bytes));
    let mut content = [&file, names.as_bytes(), &lists].concat();
    bend_bytes(&mut content, input);
    with_checksum(content)
}

fn put(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn examine(bytes: &[u8], how: usize) -> bool {
    let belongs = bytes.get(12..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or(BELONGS);
    let Ok(index) = Bm25::decode(bytes, &belongs) else { return false };
    assert!(index.encode(&belongs) == bytes, "what was read is written again as it was");
    let other = belongs.map(|byte| !byte);
    assert_eq!(Bm25::decode(bytes, &other).err().as_deref(), Some(OTHER));
    for bad in flipped(bytes, 2) {
        assert!(Bm25::decode(&bad, &belongs).is_err(), "a flipped bit");
    }
    assert!(Bm25::decode(&bytes[..how % bytes.len()], &belongs).is_err(), "cut to {}", how % bytes.len());

    let oracle = Oracle::read(bytes);
    let present = oracle.lengths.iter().filter(|length| **length != ABSENT).count();
    let found = (index.len(), index.passages(), index.distinct_words());
    assert_eq!(found, (oracle.lengths.len(), present, oracle.lists.len()));
    let names: Vec<&str> = oracle.lists.keys().map(String::as_str).collect();
    let some = names.get(how % names.len().max(1)).copied().unwrap_or_default();
    let questions = [format!("{some} 10 {some}"), names[..names.len().min(5)].join(" "), "rain in 北 spain".into()];
    for question in &questions {
        for k in [0, 1, 1 + how % 8, index.len()] {
            oracle.compare(&index, question, k);
        }
    }
    true
}

/// What FORMAT.md says of a file that is known to be whole.
struct Oracle {
    lengths: Vec<u32>,
    lists: BTreeMap<String, Vec<(u32, u32)>>,
}

impl Oracle {
    fn read(file: &[u8]) -> Self {
        let (passages, terms) = (u32_at(file, SIZES) as usize, u32_at(file, SIZES + 4) as usize);
        let lengths = SIZES + 24;
        let ends = lengths + 4 * (passages + terms);
        let names = ends + 16 * terms;
        let end = |from: usize, term: usize| match term {
            0 => 0,
            _ => u32_at(file, from + 8 * (term - 1)) as usize,
        };
        let lists = names + end(ends, terms);
        let list = |term: usize| {
            let name = &file[names + end(ends, term)..names + end(ends, term + 1)];
            let list = &file[lists + end(ends + 8 * terms, term)..lists + end(ends + 8 * terms, term + 1)];
            (String::from_utf8_lossy(name).into_owned(), pairs(list))
        };
        Self {
            lengths: (0..passages).map(|at| u32_at(file, lengths + 4 * at)).collect(),
            lists: (0..terms).map(list).collect(),
        }
    }

    fn compare(&self, index: &Bm25, question: &str, k: usize) {
        let asked = words(question);
        let scores = self.scores(&asked);
        let all: Vec<u32> = (0..self.lengths.len() as u32 + 1).collect();
        for even in [false, true] {
            let fits = |ordinal: u32| !even || ordinal.is_multiple_of(2);
            let ranked = index.search(&[question], k, std::slice::from_ref(&all), Some(&fits)).remove(0);
            for (also, wanted) in ranked.also.iter().zip(scores.iter().chain(&[0.0])) {
                assert!((f64::from(*also) - wanted).abs() <= 1e-6 * wanted, "{also} is not {wanted}");
            }
            let there = |at: &usize| self.lengths[*at] != ABSENT && fits(*at as u32);
            let present = (0..scores.len()).filter(there).count();
            let matching = (0..scores.len()).filter(there).filter(|at| scores[*at] > 0.0).count();
            assert_eq!((ranked.hits.len(), ranked.matched), (k.min(present), k.min(matching)));
            for (ordinal, score) in &ranked.hits {
                assert!(there(&(*ordinal as usize)));
                assert_eq!(*score, ranked.also[*ordinal as usize]);
            }
            let in_order =
                |pair: &[(u32, f32)]| pair[1].1.total_cmp(&pair[0].1).then(pair[0].0.cmp(&pair[1].0)).is_lt();
            assert!(ranked.hits.windows(2).all(in_order), "{:?}", ranked.hits);
            // What was left out is no better than the last.
            let last = ranked.hits.last().map_or(f32::INFINITY, |last| last.1);
            let is_left = |at: &usize| !ranked.hits.iter().any(|hit| hit.0 as usize == *at);
            assert!((0..scores.len()).filter(there).filter(is_left).all(|at| ranked.also[at] <= last));
        }
    }

    /// The formula at the head of `bm25.rs`, word by word.
    fn scores(&self, asked: &[String]) -> Vec<f64> {
        let present: Vec<f64> =
            self.lengths.iter().filter(|length| **length != ABSENT).map(|length| f64::from(*length)).collect();
        let (n, total) = (present.len() as f64, present.iter().sum::<f64>());
        let mut scores = vec![0.0; self.lengths.len()];
        for list in asked.iter().filter_map(|word| self.lists.get(word)) {
            let held = list.len() as f64;
            let idf = (1.0 + (n - held + 0.5) / (held + 0.5)).ln();
            for (ordinal, count) in list {
                let (tf, length) = (f64::from(*count), f64::from(self.lengths[*ordinal as usize]));
                scores[*ordinal as usize] += idf * tf / (tf + K1 * (1.0 - B + B * length / (total / n)));
            }
        }
        scores
    }
}

fn pairs(mut list: &[u8]) -> Vec<(u32, u32)> {
    let mut number = || {
        let (mut value, mut shift) = (0u64, 0);
        while let Some((byte, rest)) = list.split_first() {
            list = rest;
            value |= u64::from(byte & 127) << shift;
            shift += 7;
            if *byte < 128 {
                return Some(value);
            }
        }
        None
    };
    let (mut pairs, mut next) = (Vec::new(), 0);
    while let Some(gap) = number() {
        let Some(count) = number() else { break };
        next += gap + 1;
        let number = |wide: u64| u32::try_from(wide).expect("a number of 32 bits");
        pairs.push((number(next - 1), number(count + 1)));
    }
    pairs
}
