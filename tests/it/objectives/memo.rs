//! A memo changes no loss, saves what it says, and holds for one state of one generator.

use super::*;

#[test]
fn a_memo_changes_no_loss_and_saves_the_generator_s_passes() {
    // STRATEGIES oracle 19.
    let world = world();
    for objective in objectives().iter().filter(|objective| objective.needs().answers) {
        let (name, needs) = (objective.name(), objective.needs());
        let memo = RefCell::new(Memo::new(1 << 20));
        memo.borrow_mut().follow(&world.pipeline.generator, &world.pipeline.prompt).unwrap();
        let plain = step(&world, objective.as_ref(), RETRIEVER, None);
        let first = step(&world, objective.as_ref(), RETRIEVER, Some(&memo));
        let second = step(&world, objective.as_ref(), RETRIEVER, Some(&memo));
        let scored = |done: &Done| done.ledger.snapshot().phase(Phase::Score).counts;
        for remembered in [&first, &second] {
            assert!((plain.loss - remembered.loss).abs() <= 1e-6 * plain.loss.abs().max(1.0), "{name}");
            assert_eq!(remembered.observed.prompts, plain.observed.prompts, "{name}");
            assert_eq!(remembered.observed.truncated_prompts, plain.observed.truncated_prompts, "{name}");
            for (name, param) in world.pipeline.encoder.params().iter() {
                let of = |done: &Done| done.gradients.get(&param.var).cloned();
                let (Some(one), Some(other)) = (of(&plain), of(remembered)) else {
                    assert!(of(&plain).is_none() && of(remembered).is_none());
                    continue;
                };
                let apart = (&one - &other).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                let scale = one.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(apart <= 1e-5 * scale + 1e-6, "`{name}`: {apart} of {scale}");
            }
        }
        // Attention is looked at anew each time: it is no likelihood.
        let remembered = plain.observed.prompts - if needs.attention { world.questions.len() as u64 } else { 0 };
        assert_eq!((first.observed.memo.misses, first.observed.memo.hits), (remembered, 0), "{name}");
        assert_eq!((second.observed.memo.misses, second.observed.memo.hits), (0, remembered), "{name}");
        // What was saved is what it cost without.
        if !needs.attention {
            assert_eq!((scored(&plain).tokens, scored(&second).tokens), (second.observed.memo.tokens, 0), "{name}");
            assert!((scored(&plain).flops / second.observed.memo.flops - 1.0).abs() < 1e-9, "{name}");
        }
        assert!(memo.borrow().bytes() <= 1 << 20 && memo.borrow().len() as u64 == remembered, "{name}");
    }
}

#[test]
fn a_memo_holds_for_one_state_of_one_generator() {
    let world = world();
    let objective = RagToken { temperature: 0.05 };
    let memo = RefCell::new(Memo::new(1 << 20));
    let (generator, prompt) = (&world.pipeline.generator, &world.pipeline.prompt);
    let follow = || memo.borrow_mut().follow(generator, prompt).unwrap();
    follow();
    let before = step(&world, &objective, RETRIEVER, Some(&memo));
    follow();
    assert!(!memo.borrow().is_empty(), "the same weights: nothing is forgotten");
    // The weights change behind its back: following again notices.
    let (_, param) = generator.params().iter().find(|(name, _)| name.contains("lm_head")).unwrap();
    let old = param.var.as_detached_tensor().copy().unwrap();
    param.var.set(&(&old * 1.5).unwrap()).unwrap();
    follow();
    assert!(memo.borrow().is_empty());
    let after = step(&world, &objective, RETRIEVER, Some(&memo));
    assert!((after.loss - before.loss).abs() > 1e-4);
    assert_eq!(after.loss, step(&world, &objective, RETRIEVER, None).loss);
    // A step that trains the generator empties it and leaves nothing.
    step(&world, &objective, BOTH, Some(&memo));
    assert!(memo.borrow().is_empty());
    // With no room every step computes, and says so.
    let none = RefCell::new(Memo::new(0));
    for _ in 0..2 {
        let done = step(&world, &objective, RETRIEVER, Some(&none));
        assert_eq!((done.observed.memo.misses, done.observed.memo.refused), (12, 12));
    }
    // A question that comes twice in one batch is computed once.
    let twice = [world.questions[0].clone(), world.questions[0].clone()];
    let fresh = RefCell::new(Memo::new(1 << 20));
    let done = step_over(&world, &twice, &objective, RETRIEVER, Some(&fresh));
    assert_eq!((done.observed.memo.misses, done.observed.memo.hits), (3, 3));
    assert!((done.loss - step_over(&world, &twice, &objective, RETRIEVER, None).loss).abs() < 1e-5);
}
