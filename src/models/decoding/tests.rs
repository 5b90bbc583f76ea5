use candle_core::Tensor;

use super::super::generator::Scored;
use super::super::generator::golden::*;
use super::*;

/// Σ of step-by-step log-probabilities of each answer, all rows advancing together, and the score of the whole answers.
fn step_by_step(generator: &Generator, sequences: &[Scored]) -> Vec<(f32, f32)> {
    let (scores, _) = generator.answer_log_probs(sequences, Grad::Off).unwrap();
    let scores = scores.sum(1).unwrap().to_vec1::<f32>().unwrap();
    let prompts: Vec<Vec<u32>> = sequences.iter().map(|row| row.ids[..row.answer_start].to_vec()).collect();
    let mut decoding = generator.start(&prompts).unwrap();
    let longest = sequences.iter().map(Scored::answer_length).max().unwrap();
    let mut sums = vec![0f32; sequences.len()];
    for step in 0..longest {
        let log_probs = decoding.log_probs().unwrap().to_vec2::<f32>().unwrap();
        // A row whose answer is complete goes on with any token: its sum is not touched any more.
        let answer = |row: usize| sequences[row].ids[sequences[row].answer_start..].get(step).copied();
        let next: Vec<u32> = (0..sequences.len()).map(|row| answer(row).unwrap_or(0)).collect();
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum += answer(row).map_or(0.0, |token| log_probs[row][token as usize]);
        }
        if step + 1 < longest {
            decoding.advance(&next).unwrap();
        }
    }
    sums.into_iter().zip(scores).collect()
}

#[test]
fn the_score_of_an_answer_is_the_sum_over_its_steps() {
    // LongRoPE rotates what came first otherwise once a sequence is long: its steps are those of shorter sequences.
    for case in CASES.into_iter().filter(|case| !case.ends_with("longrope") && !case.ends_with("phi3")) {
        let dir = fixture(case);
        for (sum, score) in step_by_step(&load(&dir), &Golden::read(&dir).scored()) {
            assert!((sum - score).abs() <= 1e-4, "{case}: {sum} step by step, {score} at once");
        }
    }
}

#[test]
fn the_same_with_an_adapter() {
    let dir = fixture("lora/all-linear");
    let mut generator = load(&fixture("generator/tied"));
    generator.load_adapter(&dir).unwrap();
    for (sum, score) in step_by_step(&generator, &Golden::read(&dir).scored()) {
        assert!((sum - score).abs() <= 1e-4, "{sum} step by step, {score} at once");
    }
}

#[test]
fn the_same_with_a_real_model_and_a_cache_that_grows() {
    let Some(dir) = shared("stories260k-hf") else { return };
    let generator = load(&dir);
    let text = "Once upon a time there was a cat. ".repeat(20);
    let ids: Vec<u32> = generator.prompt_ids(&text).unwrap().into_iter().take(200).collect();
    assert_eq!(ids.len(), 200);
    let sequences = [
        Scored { ids: ids.clone(), answer_start: 5 },
        Scored { ids: ids[..150].to_vec(), answer_start: 60 },
        Scored { ids: ids[..7].to_vec(), answer_start: 6 },
    ];
    for (sum, score) in step_by_step(&generator, &sequences) {
        assert!((sum - score).abs() <= 1e-4 * score.abs().max(1.0), "{sum} step by step, {score} at once");
    }
}

#[test]
fn what_is_kept_equals_reading_everything_again() {
    for case in CASES {
        let dir = fixture(case);
        let (generator, mut ids) = (load(&dir), Golden::read(&dir).ids());
        let mut decoding = generator.start(&ids).unwrap();
        for step in 0..12 {
            let tokens = [5 + step, 50 - step, 7 * step + 3];
            decoding.advance(&tokens).unwrap();
            ids.iter_mut().zip(tokens).for_each(|(ids, token)| ids.push(token));
            let again = generator.start(&ids).unwrap();
            assert_eq!(decoding.lengths(), again.lengths());
            assert_near(case, &decoding.log_probs().unwrap(), &again.log_probs().unwrap(), 3e-5);
        }
    }
}

#[test]
fn greedy_equals_transformers_token_for_token() {
    for case in CASES {
        let dir = fixture(case);
        let golden = Golden::read(&dir);
        let generator = load(&dir);
        assert_eq!(generator.greedy(&golden.ids(), 12, &[2]).unwrap(), golden.greedy, "{case}");
        for (ids, expected) in golden.ids().into_iter().zip(&golden.greedy) {
            assert_eq!(generator.greedy(&[ids], 12, &[2]).unwrap(), std::slice::from_ref(expected), "{case}");
        }
    }
}

#[test]
fn a_stop_token_ends_its_row_only_and_is_kept() {
    let dir = fixture("generator/tied");
    let (generator, golden) = (load(&dir), Golden::read(&dir));
    let stop = golden.greedy[0][2];
    let written = generator.greedy(&golden.ids(), 12, &[stop, 2]).unwrap();
    for (written, whole) in written.iter().zip(&golden.greedy) {
        let end = whole.iter().position(|&token| token == stop || token == 2).map_or(whole.len(), |at| at + 1);
        assert_eq!(written, &whole[..end]);
    }
    assert!(written[0].len() <= 3 && written.iter().any(|row| row.len() > 3), "all rows ended together");
}

#[test]
fn rows_stop_at_the_position_limit() {
    let generator = load(&fixture("generator/tied"));
    let limit = generator.max_positions();
    let prompts = [vec![5; limit], vec![5; limit - 2], vec![5; 3]];
    let written = generator.greedy(&prompts, 4, &[]).unwrap();
    assert_eq!(written.iter().map(Vec::len).collect::<Vec<_>>(), [0, 2, 4]);
    let error = generator.greedy(&[vec![5; limit + 1]], 4, &[]).unwrap_err().to_string();
    assert!(error.contains("`33` tokens") && error.contains("at most 32"), "{error}");
    let mut decoding = generator.start(&prompts[..1]).unwrap();
    let error = decoding.advance(&[5]).unwrap_err().to_string();
    assert!(error.contains("`33` tokens"), "{error}");
    assert_eq!(decoding.lengths(), [limit]);
}

#[test]
fn nothing_to_write_is_no_error() {
    let generator = load(&fixture("generator/tied"));
    assert!(generator.greedy(&[], 4, &[]).unwrap().is_empty());
    assert_eq!(generator.greedy(&[vec![1, 5]], 0, &[]).unwrap(), [Vec::<u32>::new()]);
    assert!(generator.greedy(&[vec![]], 4, &[]).is_err());
    assert!(generator.start(&[]).is_err());
}

#[test]
fn selected_rows_go_on_as_they_would_have() {
    let dir = fixture("generator/llama3");
    let (generator, ids) = (load(&dir), Golden::read(&dir).ids());
    let mut all = generator.start(&ids).unwrap();
    all.advance(&[7, 8, 9]).unwrap();
    let mut some = generator.start(&ids).unwrap();
    some.select(&[2, 0, 2]).unwrap();
    some.advance(&[9, 7, 9]).unwrap();
    assert_eq!(some.lengths(), [6, 10, 6]);
    let order = Tensor::new(&[2u32, 0, 2], &candle_core::Device::Cpu).unwrap();
    assert_near("rows", &some.log_probs().unwrap(), &all.log_probs().unwrap().index_select(&order, 0).unwrap(), 1e-5);
    assert!(some.select(&[3]).is_err() && some.select(&[]).is_err());
}

#[test]
fn a_fork_goes_its_own_way_and_leaves_the_rows_as_they_were() {
    let dir = fixture("generator_families/mistral");
    let (generator, ids) = (load(&dir), Golden::read(&dir).ids());
    let mut first = generator.start(&ids).unwrap();
    let mut fork = first.fork(&[0, 1, 2]).unwrap();
    fork.advance(&[9, 9, 9]).unwrap();
    fork.advance(&[8, 8, 8]).unwrap();
    first.advance(&[7, 7, 7]).unwrap();
    let again = |tokens: &[u32]| {
        let ids: Vec<Vec<u32>> = ids.iter().map(|row| [row.as_slice(), tokens].concat()).collect();
        generator.start(&ids).unwrap().log_probs().unwrap()
    };
    assert_near("rows", &first.log_probs().unwrap(), &again(&[7]), 3e-5);
    assert_near("fork", &fork.log_probs().unwrap(), &again(&[9, 8]), 3e-5);
}

#[test]
fn steps_cost_what_reading_at_once_costs() {
    for case in ["generator/tied", "generator_families/mistral"] {
        let generator = load(&fixture(case));
        let steps: f64 = (5..12).map(|length| generator.step_flops(&[length, 3])).sum();
        let prompts = generator.forward_flops(&[5], 0) + 7.0 * generator.forward_flops(&[3], 0);
        let rows = generator.forward_flops(&[12], 7) + 7.0 * generator.forward_flops(&[4], 1);
        assert!((prompts + steps - rows).abs() <= 1e-9 * rows, "{case}: {steps}");
    }
}

#[test]
fn wrong_next_tokens_are_refused_and_change_nothing() {
    let generator = load(&fixture("generator/tied"));
    let mut decoding = generator.start(&[vec![1, 5], vec![1, 6, 7]]).unwrap();
    let before = values(&decoding.log_probs().unwrap());
    assert!(decoding.advance(&[4]).unwrap_err().to_string().contains("`1` next tokens for 2 rows"));
    assert!(decoding.advance(&[4, 100]).unwrap_err().to_string().contains("`100`"));
    assert_eq!((decoding.lengths(), values(&decoding.log_probs().unwrap())), ([2, 3].as_slice(), before));
}

/// The same numbers out of candle's operations, as on another device.
#[test]
fn the_same_on_portable_layers() {
    nn::portably(|| {
        the_score_of_an_answer_is_the_sum_over_its_steps();
        the_same_with_an_adapter();
        what_is_kept_equals_reading_everything_again();
        greedy_equals_transformers_token_for_token();
        a_stop_token_ends_its_row_only_and_is_kept();
        rows_stop_at_the_position_limit();
        selected_rows_go_on_as_they_would_have();
    });
}
