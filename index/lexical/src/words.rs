//! What a word is: the same rules for passages and questions.
//!
//! 1. Unicode NFKC, then lower case; the typographic apostrophe becomes `'`.
//! 2. Words are the segments between the word boundaries of Unicode Standard Annex 29 that hold a letter or a digit, as in
//!    Lucene's StandardTokenizer: `don't`, `3.14` and `u.s` (then cut to `u.`) are one word, `well-known` is two, and of Chinese every character.
//! 3. Lucene's 33 English stop words are left out.
//! 4. What remains is cut to its stem by Snowball's English stemmer (Porter 2; Porter 1980, Program 14(3), revised 2001).
//!
//! So English is assumed where it matters least: words of other languages are found as they are written, or in rare cases by
//! a stem that English endings gave them.

use frostem::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;

/// Number of these rules: part of the identity of an index, raised whenever the same text gives other words.
pub const RULES: u32 = 1;

/// Lucene's default English stop words (`EnglishAnalyzer.ENGLISH_STOP_WORDS_SET`), sorted.
pub const STOP_WORDS: [&str; 33] = [
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
];

/// The words of a text in their order, repeats included.
pub fn words(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    each_word(&normalized(text), |word| found.extend(stem_of(word)));
    found
}

/// A text as its words are looked for in it.
pub(crate) fn normalized(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let composed: String = text.nfkc().map(|c| if c == '\u{2019}' { '\'' } else { c }).collect();
    composed.to_lowercase()
}

/// The words of a normalised text before stop words are left out and stems are cut.
pub(crate) fn each_word(normalized: &str, each: impl FnMut(&str)) {
    normalized.unicode_words().for_each(each);
}

/// The stem of a word; none of a stop word.
pub(crate) fn stem_of(word: &str) -> Option<String> {
    if STOP_WORDS.binary_search(&word).is_ok() {
        return None;
    }
    let stem = Stemmer::new(Algorithm::English).stem(word).into_owned();
    (!stem.is_empty()).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_follow_the_rules() {
        assert!(STOP_WORDS.is_sorted());
        for (text, expected) in [
            ("Who wrote HAMLET?", &["who", "wrote", "hamlet"][..]),
            ("Hamlet's ghosts, and Hamlet\u{2019}s ghost", &["hamlet", "ghost", "hamlet", "ghost"]),
            ("well-known running runners run", &["well", "known", "run", "runner", "run"]),
            ("the of a and", &[]),
            ("", &[]),
            ("?! -- ...", &[]),
            ("3.14 and 1,000 in the U.S.", &["3.14", "1,000", "u."]),
            // Composed and decomposed, full width, and a ligature are the same to a reader.
            ("Cafe\u{301} Café ＡＢＣ ﬁsh", &["café", "café", "abc", "fish"]),
            ("北京 ΣΊΣΥΦΟΣ", &["北", "京", "σίσυφος"]),
            ("🙂 a\u{0}b", &["b"]),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
    }
}
