//! Against transformers with eager attention: `fixtures/golden/attention_mass.py`.

// One segment is one range, not the numbers in it.
#![allow(clippy::single_range_in_vec_init)]

use serde::Deserialize;

use super::super::golden::*;
use super::*;

#[derive(Deserialize)]
struct Case {
    sequences: Vec<Row>,
    segments: Vec<Vec<(usize, usize)>>,
    mass: Vec<Vec<f32>>,
}

impl Case {
    fn segments(&self) -> Vec<Vec<Range<usize>>> {
        self.segments.iter().map(|row| row.iter().map(|&(start, end)| start..end).collect()).collect()
    }

    fn scored(&self) -> Vec<Scored> {
        self.sequences.iter().map(Row::scored).collect()
    }
}

fn cases() -> std::collections::BTreeMap<String, Case> {
    let text = std::fs::read_to_string(fixture("attention_mass.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn mass_equals_transformers_in_every_family() {
    let cases = cases();
    assert_eq!(cases.keys().map(String::as_str).collect::<std::collections::BTreeSet<_>>(), CASES.into());
    for (name, case) in cases {
        let found = load(&fixture(&name)).attention_mass(&case.scored(), &case.segments()).unwrap();
        assert_eq!(found.dims(), [case.mass.len(), case.mass[0].len()], "{name}");
        for (found, expected) in values(&found).into_iter().zip(case.mass.concat()) {
            assert!(
                (found - expected).abs() <= 2e-5 * expected.max(1.0),
                "{name}: {found}, transformers has {expected}"
            );
        }
    }
}

#[test]
fn segments_add_up_and_do_not_disturb_each_other() {
    let (name, case) = cases().into_iter().find(|(name, _)| name.ends_with("mistral")).unwrap();
    let generator = load(&fixture(&name));
    let sequences = case.scored();
    let of = |segments: &dyn Fn(&Scored) -> Vec<Range<usize>>| {
        let segments: Vec<_> = sequences.iter().map(segments).collect();
        generator.attention_mass(&sequences, &segments).unwrap().to_vec2::<f32>().unwrap()
    };
    // More segments than a head is wide (6): one for each token of the shortest prompt, repeated.
    let single = of(&|_| (0..20).map(|i| i % 4..i % 4 + 1).chain([2..2]).collect());
    let whole = of(&|_| vec![0..4]);
    for (single, whole) in single.iter().zip(&whole) {
        assert!((single[..4].iter().sum::<f32>() - whole[0]).abs() <= 1e-5, "{single:?} {whole:?}");
        let repeated = single[4..20].iter().zip(single.iter().cycle());
        assert!(repeated.clone().all(|(again, first)| (again - first).abs() <= 1e-6), "{single:?}");
        assert_eq!(single[20], 0.0, "an empty segment");
    }
    // One sequence by itself, as in a batch.
    let alone = generator.attention_mass(&sequences[1..2], &[vec![0..4]]).unwrap();
    assert!((values(&alone)[0] - whole[1][0]).abs() <= 1e-6);
}

#[test]
fn an_adapter_counts_and_no_gradient_is_kept() {
    let mut generator = load(&fixture("generator/tied"));
    let sequences = [Scored { ids: vec![1, 5, 6, 7, 8], answer_start: 3 }];
    let mass = |generator: &Generator| generator.attention_mass(&sequences, &[vec![0..3]]).unwrap();
    let before = mass(&generator);
    generator.load_adapter(&fixture("lora/all-linear")).unwrap();
    let after = mass(&generator);
    assert_ne!(values(&before), values(&after));
    assert!(!after.track_op());
}

#[test]
fn wrong_segments_are_refused() {
    let generator = load(&fixture("generator/tied"));
    let sequences = [Scored { ids: vec![1, 5, 6, 7], answer_start: 3 }, Scored { ids: vec![1, 5, 6], answer_start: 2 }];
    let refused = |segments: &[Vec<Range<usize>>], part: &str| {
        let error = generator.attention_mass(&sequences, segments).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&[vec![0..1]], "`[1]` of them for 2 prompts");
    refused(&[vec![], vec![]], "at least 1");
    refused(&[vec![0..1], vec![0..1, 1..2]], "`[1, 2]`");
    refused(&[vec![0..3], vec![0..3]], "sequence 1 is `0..3`");
    let empty = [Scored { ids: vec![1, 5], answer_start: 2 }];
    assert!(generator.attention_mass(&empty, &[vec![0..1]]).unwrap_err().to_string().contains("empty"));
}
