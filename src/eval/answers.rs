//! Exact match and token F1 with SQuAD's normalisation (Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1).
//!
//! Empty strings: a text that is empty after normalisation (`The`, `!`) equals another such text, and then both EM and F1
//! are 1; against any other text both are 0. This is the rule of the SQuAD 2 evaluation. The SQuAD 1 script gives F1 0 and
//! EM 1 for two empty texts, which would break EM <= F1.

use std::collections::HashMap;

/// Lower-cases, deletes ASCII punctuation, replaces the words `a`, `an`, `the` by a space, squeezes white space: in this
/// order, as the SQuAD scripts do.
///
/// Only ASCII punctuation is deleted: Unicode quotes and dashes stay. They do separate words where articles are looked for.
pub fn normalize_answer(text: &str) -> String {
    let lower = text.to_lowercase();
    let kept: String = lower.chars().filter(|character| !character.is_ascii_punctuation()).collect();
    let mut result = String::with_capacity(kept.len());
    for word in without_articles(&kept).split(is_space).filter(|word| !word.is_empty()) {
        if !result.is_empty() {
            result.push(' ');
        }
        result.push_str(word);
    }
    result
}

/// 1 when the prediction equals one of the accepted answers after normalisation, else 0; `None` without accepted answers.
pub fn exact_match(prediction: &str, answers: &[impl AsRef<str>]) -> Option<f32> {
    let prediction = normalize_answer(prediction);
    let hit = |answer: &str| if normalize_answer(answer) == prediction { 1.0 } else { 0.0 };
    best(answers, hit)
}

/// Token F1, 0 to 1: the harmonic mean of precision and recall over the multiset of normalised words, the best over the
/// accepted answers; `None` without accepted answers.
pub fn token_f1(prediction: &str, answers: &[impl AsRef<str>]) -> Option<f32> {
    let prediction = normalize_answer(prediction);
    best(answers, |answer| overlap(&prediction, &normalize_answer(answer)))
}

/// [`token_f1`] with HotpotQA's extra rule (Yang et al. 2018, official script): where the normalised prediction or answer is
/// `yes`, `no` or `noanswer`, F1 is 0 unless both are the same.
pub fn token_f1_hotpotqa(prediction: &str, answers: &[impl AsRef<str>]) -> Option<f32> {
    const CLOSED: [&str; 3] = ["yes", "no", "noanswer"];
    let prediction = normalize_answer(prediction);
    best(answers, |answer| {
        let answer = normalize_answer(answer);
        let closed = CLOSED.contains(&prediction.as_str()) || CLOSED.contains(&answer.as_str());
        if closed && prediction != answer { 0.0 } else { overlap(&prediction, &answer) }
    })
}

fn best(answers: &[impl AsRef<str>], score: impl Fn(&str) -> f32) -> Option<f32> {
    answers.iter().map(|answer| score(answer.as_ref())).reduce(f32::max)
}

/// F1 of two normalised texts.
fn overlap(prediction: &str, answer: &str) -> f32 {
    if prediction.is_empty() || answer.is_empty() {
        return if prediction == answer { 1.0 } else { 0.0 };
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    let mut answer_words = 0usize;
    for word in answer.split(' ') {
        *left.entry(word).or_default() += 1;
        answer_words += 1;
    }
    let (mut common, mut predicted_words) = (0usize, 0usize);
    for word in prediction.split(' ') {
        predicted_words += 1;
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    // In f64 and rounded once, so that equal texts give exactly 1.
    let precision = common as f64 / predicted_words as f64;
    let recall = common as f64 / answer_words as f64;
    (2.0 * precision * recall / (precision + recall)) as f32
}

/// Replaces every whole word `a`, `an`, `the` by a space. A word is a run of letters, digits and underscores: `\b` of
/// Python's regular expressions.
fn without_articles(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|character| !is_word(character)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        result.push_str(if matches!(word, "a" | "an" | "the") { " " } else { word });
        let next = after.find(is_word).unwrap_or(after.len());
        let (between, after) = after.split_at(next);
        result.push_str(between);
        rest = after;
    }
    result
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// White space as Python's `str.split` sees it: Unicode's and the four ASCII separators.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[test]
    fn normalisation_follows_squads_order() {
        for (text, expected) in [
            ("The Beatles!", "beatles"),
            ("  An   apple a day\t", "apple day"),
            // Punctuation goes before articles: `t.h.e` becomes an article, `a-b` one word.
            ("t.h.e end", "end"),
            ("a-b", "ab"),
            ("theatre banana", "theatre banana"),
            ("the", ""),
            ("", ""),
            ("“the” — Ünïcode", "“ ” — ünïcode"),
            ("l’a", "l’"),
            ("x\u{1c}y\u{a0}z", "x y z"),
        ] {
            assert_eq!(normalize_answer(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_best_alias_counts_and_no_alias_is_no_score() {
        assert_eq!(exact_match("the Beatles", &["Stones", "Beatles!"]), Some(1.0));
        assert_eq!(exact_match("x", &[] as &[&str]), None);
        assert_eq!(token_f1("x", &[] as &[&str]), None);
        // 1 common of 2 predicted and 3 accepted: 2 * (1/2 * 1/3) / (1/2 + 1/3) = 0.4.
        assert_eq!(token_f1("green bay", &["of green packers", "z"]), Some(0.4));
        // Words count as often as they occur: 1 common of 3 and 1.
        assert_eq!(token_f1("no no no", &["no"]), Some(0.5));
    }

    #[test]
    fn empty_texts_match_each_other_only() {
        assert_eq!((exact_match("The!", &[""]), token_f1("The!", &[""])), (Some(1.0), Some(1.0)));
        assert_eq!((exact_match("The!", &["x"]), token_f1("The!", &["x"])), (Some(0.0), Some(0.0)));
    }

    #[test]
    fn closed_answers_of_hotpotqa_are_all_or_nothing() {
        assert_eq!(token_f1("yes it is", &["yes"]), Some(0.5));
        assert_eq!(token_f1_hotpotqa("yes it is", &["yes"]), Some(0.0));
        assert_eq!(token_f1_hotpotqa("Yes.", &["yes"]), Some(1.0));
        assert_eq!(token_f1_hotpotqa("no", &["yes", "no"]), Some(1.0));
        assert_eq!(token_f1_hotpotqa("green bay", &["bay"]), token_f1("green bay", &["bay"]));
    }

    #[derive(Deserialize)]
    struct Case {
        prediction: String,
        answers: Vec<String>,
        normalized: String,
        em: f32,
        f1: f32,
        f1_hotpotqa: f32,
    }

    /// Numbers by `fixtures/golden/answers.py`, an implementation in Python on its own regular expressions.
    fn golden() -> Vec<Case> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/answers.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn scores_equal_an_independent_implementation() {
        let cases = golden();
        assert!(cases.len() > 500);
        for case in cases {
            let Case { prediction, answers, normalized, em, f1, f1_hotpotqa } = case;
            assert_eq!(normalize_answer(&prediction), normalized, "{prediction:?}");
            assert_eq!(exact_match(&prediction, &answers), Some(em), "{prediction:?} {answers:?}");
            let close = |ours: Option<f32>, theirs: f32| (ours.unwrap() - theirs).abs() < 1e-6;
            assert!(close(token_f1(&prediction, &answers), f1), "{prediction:?} {answers:?}");
            assert!(close(token_f1_hotpotqa(&prediction, &answers), f1_hotpotqa), "{prediction:?} {answers:?}");
        }
    }

    #[test]
    fn em_is_at_most_f1_and_the_answer_itself_scores_one() {
        for Case { prediction, answers, .. } in golden() {
            let (em, f1) = (exact_match(&prediction, &answers).unwrap(), token_f1(&prediction, &answers).unwrap());
            assert!((0.0..=1.0).contains(&f1) && em <= f1, "{prediction:?} {answers:?}");
            for answer in &answers {
                assert_eq!((exact_match(answer, &answers), token_f1(answer, &answers)), (Some(1.0), Some(1.0)));
            }
        }
    }
}
