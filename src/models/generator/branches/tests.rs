use super::super::Scored;
use super::super::golden::*;
use super::*;
use crate::models::lora::LoraConfig;

/// Two prompts with several branches, one of which scores its first token only and one nothing.
fn batch(vocabulary: u32) -> Vec<Branched> {
    let ids = |seed: u32, count: u32| -> Vec<u32> {
        (0..count).map(|i| 4 + (seed * 31 + i * 17) % (vocabulary - 4)).collect()
    };
    let all = |ids: Vec<u32>| Branch { scored: (0..ids.len()).map(|at| Choice { at, among: None }).collect(), ids };
    vec![
        Branched {
            prompt: ids(1, 7),
            branches: vec![
                all(ids(2, 4)),
                all(ids(3, 1)),
                Branch { ids: ids(4, 3), scored: Vec::new() },
                all(ids(5, 5)),
            ],
        },
        Branched { prompt: ids(6, 3), branches: vec![all(ids(7, 2))] },
    ]
}

/// The same as sequences of their own.
fn sequences(batch: &[Branched]) -> Vec<Scored> {
    let each = |prompt: &Branched| -> Vec<Scored> {
        let scored = prompt.branches.iter().filter(|branch| !branch.scored.is_empty());
        scored
            .map(|branch| Scored {
                ids: [prompt.prompt.clone(), branch.ids.clone()].concat(),
                answer_start: prompt.prompt.len(),
            })
            .collect()
    };
    batch.iter().flat_map(each).collect()
}

/// Value and gradients of Σ wᵢ log pᵢ with weights that differ.
fn weighted(generator: &Generator, log_probs: &Tensor) -> (Vec<f32>, Vec<(String, Tensor)>) {
    let weights: Vec<f32> = (0..log_probs.dim(0).unwrap()).map(|i| 0.3 + 0.7 * i as f32).collect();
    let weights = Tensor::new(weights, &Device::Cpu).unwrap();
    let mut store = (log_probs * weights).unwrap().sum_all().unwrap().backward().unwrap();
    generator.finish_backward(&mut store).unwrap();
    let gradients =
        generator.params().trainable().map(|(name, var)| (name.to_owned(), store.get(var).unwrap().clone()));
    (values(log_probs), gradients.collect())
}

fn assert_same(what: &str, got: &(Vec<f32>, Vec<(String, Tensor)>), want: &(Vec<f32>, Vec<(String, Tensor)>)) {
    for (got, want) in got.0.iter().zip(&want.0) {
        assert!((got - want).abs() <= 1e-4, "{what}: {got} {want}");
    }
    for ((name, got), (_, want)) in got.1.iter().zip(&want.1) {
        let largest = values(want).into_iter().fold(1e-6f32, |most, value| most.max(value.abs()));
        assert_near(&format!("{what}: {name}"), got, want, 2e-4 * largest);
    }
}

/// A prompt read once gives the numbers and gradients of whole sequences: with grouped keys, windows, soft caps, joined
/// projections, norms of heads and rotations that depend on the length, with and without an adapter and with layers computed
/// twice.
#[test]
fn branches_are_whole_sequences() {
    // Weights of branches that score nothing must not shift the others: 4 + 1 branches, one of them empty.
    let keep = Tensor::new(&[0u32, 1, 3, 4], &Device::Cpu).unwrap();
    for case in [
        "generator/tied",
        "generator/llama3",
        "generator_families/gemma2",
        "generator_families/gemma3",
        "generator_families/qwen3",
        "generator_families/neox",
        "generator_families/phi3",
    ] {
        let mut generator = load(&fixture(case));
        for adapter in [false, true] {
            if adapter {
                let config = LoraConfig { rank: 2, targets: vec!["all-linear".into()], ..LoraConfig::default() };
                generator.add_lora(&config, 3).unwrap();
            }
            let batch = batch(generator.config().vocabulary as u32);
            let (whole, _) = generator.answer_log_probs(&sequences(&batch), Grad::On).unwrap();
            let want = weighted(&generator, &whole.sum(1).unwrap());
            let shared = |generator: &Generator| {
                let log_probs = generator.branch_log_probs(&batch, Grad::On).unwrap();
                assert_eq!(log_probs.dims(), [5]);
                assert_eq!(values(&log_probs)[2], 0.0);
                weighted(generator, &log_probs.index_select(&keep, 0).unwrap())
            };
            assert_same(case, &shared(&generator), &want);
            generator.set_checkpointing(true);
            assert_same(&format!("{case} computed twice"), &shared(&generator), &want);
            generator.set_checkpointing(false);
            let off = generator.branch_log_probs(&batch, Grad::Off).unwrap();
            assert!(!off.track_op());
            assert_near(case, &off.index_select(&keep, 0).unwrap(), &whole.sum(1).unwrap(), 1e-4);
        }
    }
}

/// Among given tokens the softmax is over them alone: computed from the logits of the whole vocabulary.
#[test]
fn choices_are_renormalised_over_what_is_allowed() {
    let generator = load(&fixture("generator_families/gemma2"));
    let (prompt, ids) = (vec![5u32, 9, 30], vec![7u32, 8, 12]);
    let scored = vec![
        Choice { at: 0, among: Some(vec![7, 40]) },
        Choice { at: 1, among: None },
        Choice { at: 2, among: Some(vec![3, 11, 12, 60]) },
    ];
    let one = Branched { prompt: prompt.clone(), branches: vec![Branch { ids: ids.clone(), scored }] };
    let got = values(&generator.branch_log_probs(&[one], Grad::Off).unwrap())[0];
    let row = |at: usize| {
        let read = [prompt.as_slice(), &ids[..at]].concat();
        generator.start(&[read]).unwrap().log_probs().unwrap().to_vec2::<f32>().unwrap().remove(0)
    };
    let among = |at: usize, allowed: &[usize]| {
        let row = row(at);
        row[ids[at] as usize] - allowed.iter().map(|&id| row[id].exp()).sum::<f32>().ln()
    };
    let want = among(0, &[7, 40]) + row(1)[8] + among(2, &[3, 11, 12, 60]);
    assert!((got - want).abs() < 1e-4, "{got} {want}");
}

#[test]
fn refuses_what_has_no_meaning() {
    let generator = load(&fixture("generator/tied"));
    let one = |prompt: Vec<u32>, ids: Vec<u32>, choice: Choice| {
        let branched = Branched { prompt, branches: vec![Branch { ids, scored: vec![choice] }] };
        generator.branch_log_probs(&[branched], Grad::Off)
    };
    let first = |among: Option<Vec<u32>>| Choice { at: 0, among };
    assert!(one(vec![1], vec![5], first(Some(vec![5, 6]))).is_ok());
    assert!(one(vec![], vec![5], first(None)).is_err());
    assert!(one(vec![1], vec![5], first(Some(vec![6, 7]))).unwrap_err().to_string().contains("not among"));
    assert!(one(vec![1], vec![5], Choice { at: 1, among: None }).unwrap_err().to_string().contains("not among"));
    assert!(one(vec![1], vec![5], first(Some(vec![5, 100]))).is_err());
    assert!(one(vec![1; 32], vec![5], first(None)).unwrap_err().to_string().contains("`33` tokens"));
    assert!(generator.branch_log_probs(&[], Grad::Off).is_err());
    assert!(generator.branch_log_probs(&[Branched { prompt: vec![1], branches: Vec::new() }], Grad::Off).is_err());
}

#[test]
fn a_shared_prompt_is_charged_once() {
    let generator = load(&fixture("generator/tied"));
    let batch = batch(100);
    let lengths: Vec<usize> = sequences(&batch).iter().map(|sequence| sequence.ids.len()).collect();
    let (shared, apart) = (generator.branch_flops(&batch), generator.forward_flops(&lengths, 12));
    assert!(shared < 0.6 * apart, "{shared} {apart}");
    // One branch alone: what the sequence takes, but for its last token, which is not read.
    let alone = &batch[1..];
    assert_eq!(generator.branch_flops(alone), generator.forward_flops(&[4], 2));
}
