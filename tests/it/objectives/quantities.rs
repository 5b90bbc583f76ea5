//! What a step computes for objectives: candidates, likelihoods with a passage left out, attention; and what it refuses.

use super::*;

#[test]
fn leaving_one_of_two_out_is_reading_the_other_alone() {
    // Oracle 9, from the prompts on.
    let world = world();
    let questions: Vec<&Question> = world.questions.iter().collect();
    let ledger = Ledger::new();
    let settings = StepSettings { top_k: 2, ..SETTINGS };
    let mut step = Step::new(&world.pipeline, &questions, RETRIEVER, settings, &ledger);
    let rows = |tensor: Tensor| tensor.to_vec3::<f32>().unwrap();
    let alone = rows(step.answer_token_log_probs(ToGenerator::Stopped).unwrap().0);
    let without = rows(step.leave_one_out_log_probs().unwrap().0);
    for (alone, without) in alone.iter().zip(&without) {
        for (k, other) in [(0, 1), (1, 0)] {
            for (one, same) in alone[k].iter().zip(&without[other]) {
                assert!((one - same).abs() < 1e-5);
            }
        }
    }
    let one = StepSettings { top_k: 1, ..SETTINGS };
    let mut step = Step::new(&world.pipeline, &questions, RETRIEVER, one, &ledger);
    let error = step.leave_one_out_log_probs().unwrap_err();
    assert!(error.to_string().contains("one passage a question") && error.find_hint().unwrap().contains("--top-k 2"));
    step.retrieval_scores().unwrap();
    assert!(step.observed.single_passage, "reported: nothing to compare");
}

#[test]
fn candidates_come_from_labels_from_mining_and_from_the_caller() {
    let world = world();
    let questions: Vec<&Question> = world.questions.iter().collect();
    let (ledger, corpus) = (Ledger::new(), &world.pipeline.corpus);
    let ordinal = |id: &String| corpus.ordinal(id).unwrap().unwrap();
    let fresh = || Step::new(&world.pipeline, &questions, RETRIEVER, SETTINGS, &ledger);
    // Four questions whose hard negatives are each other's gold: no new column, and none of a question's own.
    let scores = fresh().batch_scores(2).unwrap();
    assert_eq!(scores.scores.dims(), [4, 4]);
    // Mined ones are candidates in place of the file's; a gold passage among them is dropped.
    let golds: Vec<u32> = questions.iter().map(|question| ordinal(&question.gold_passages[0])).collect();
    let others: Vec<u32> = (0..corpus.len() as u32).filter(|ordinal| !golds.contains(ordinal)).take(3).collect();
    let mined = ByQuestion::from([(questions[0].id.clone(), vec![golds[0], others[0], others[1], others[2]])]);
    let mut step = fresh().with_mined(Some(&mined));
    assert_eq!(step.batch_scores(2).unwrap().scores.dims(), [4, 6]);
    assert_eq!(step.observed.hard_negatives, 8);
    assert_eq!(fresh().batch_scores(0).unwrap().scores.dims(), [4, 4]);

    // Given passages stand in place of a search, in their order; scores are those of any candidate.
    let given: ByQuestion = questions.iter().map(|question| (question.id.clone(), vec![others[1], golds[2]])).collect();
    let mut step = fresh().with_passages(Some(&given));
    let scores = step.retrieval_scores().unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(step.observed.retrieved, vec![vec![others[1], golds[2]]; 4]);
    let batch = fresh().batch_scores(0).unwrap();
    let column = batch.gold.to_vec1::<u32>().unwrap()[2] as usize;
    for (row, batch) in scores.iter().zip(batch.scores.to_vec2::<f32>().unwrap()) {
        assert!((row[1] - batch[column]).abs() < 1e-6);
    }
    let refusal = |given: ByQuestion| fresh().with_passages(Some(&given)).retrieved().unwrap_err().to_string();
    let mut lacking = given.clone();
    lacking.remove(&questions[3].id);
    assert!(refusal(lacking).contains(&format!("`{}`", questions[3].id)));
    let mut uneven = given.clone();
    uneven.insert(questions[3].id.clone(), vec![others[0]]);
    assert!(refusal(uneven).contains("has 1 passages, others of its batch have 2"));
    let mut double = given;
    double.insert(questions[3].id.clone(), vec![others[0], others[0]]);
    assert!(refusal(double).contains("chosen twice"));

    // The encoder as it is now scores like its copy; without one there is nothing to compare with.
    let copy = world.pipeline.encoder.try_clone().unwrap();
    for trains in [RETRIEVER, Trains { passages: true, ..RETRIEVER }] {
        let mut step = Step::new(&world.pipeline, &questions, trains, SETTINGS, &ledger).with_reference(Some(&copy));
        let (candidates, gold) = step.gold_among_retrieved(1).unwrap();
        let rows = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (live, reference) =
            (step.candidate_scores(&candidates).unwrap(), step.reference_scores(&candidates).unwrap());
        for (live, reference) in rows(&live).iter().zip(rows(&reference)) {
            assert!((live - reference).abs() < 1e-5);
        }
        assert!(!reference.track_op() && live.track_op());
        assert_eq!(gold.dims(), candidates.mask().dims());
        for (row, gold) in candidates.rows().iter().zip(gold.to_vec2::<f32>().unwrap()) {
            for (ordinal, gold) in row.iter().zip(gold).take(2) {
                assert!((gold == 1.0) <= golds.contains(ordinal));
            }
        }
    }
    let mut step = fresh();
    let candidates = step.retrieved().unwrap();
    let error = step.reference_scores(&candidates).unwrap_err();
    assert!(error.to_string().contains("as it was") && error.find_hint().is_some());
}

#[test]
fn attention_falls_on_the_passages_and_depends_on_them() {
    let world = world();
    let questions: Vec<&Question> = world.questions.iter().collect();
    let ledger = Ledger::new();
    let mut step = Step::new(&world.pipeline, &questions, RETRIEVER, SETTINGS, &ledger);
    let mass = step.attention_mass().unwrap();
    assert_eq!(mass.dims(), [4, 3]);
    let mass = mass.to_vec2::<f32>().unwrap();
    assert!(mass.iter().flatten().all(|mass| *mass > 0.0));
    assert!(mass.iter().any(|row| (row[0] - row[1]).abs() > 1e-6));
}

#[test]
fn a_generator_that_ignores_its_context_gives_no_signal() {
    let folder = folder();
    let generator = folder.path().join("generator");
    copy(&small_generator(), &generator);
    edit_tensors(&generator.join("model.safetensors"), |name, tensor| {
        if name.contains("o_proj") {
            tensor.values.iter_mut().for_each(|value| *value = 0.0);
        }
    });
    let world = world_with(&generator);
    for objective in objectives().iter().filter(|objective| {
        let needs = objective.needs();
        (needs.single_prompts || needs.leave_one_out) && needs.moves_retriever
    }) {
        let name = objective.name();
        let done = step(&world, objective.as_ref(), RETRIEVER, None);
        assert_eq!(done.observed.likelihoods.flat_share(), 1.0, "{name}");
        if matches!(name, "rag-token" | "rag-sequence" | "emdr2" | "cl-rag" | "preference") {
            // The posterior is the prior, and there is no order: the retriever stands still.
            for (parameter, param) in world.pipeline.encoder.params().iter() {
                let Some(gradient) = done.gradients.get(&param.var) else { continue };
                let largest = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(largest < 1e-4, "{name}: `{parameter}` {largest}");
            }
        }
        if objective.settings().iter().any(|(setting, _)| *setting == "target temperature") {
            assert_eq!(done.observed.targets.flat_share(), 1.0, "{name}");
        }
    }
}

#[test]
fn questions_that_cannot_be_learnt_from_are_refused() {
    let world = world();
    let ledger = Ledger::new();
    let refusal = |objective: &dyn Objective, change: &dyn Fn(&mut Question)| {
        let mut question = world.questions[0].clone();
        change(&mut question);
        let questions = [&question];
        let mut step = Step::new(&world.pipeline, &questions, RETRIEVER, SETTINGS, &ledger);
        let error = objective.loss(&mut step).unwrap_err();
        assert!(error.find_hint().is_some(), "{error}");
        error.to_string()
    };
    let token = RagToken { temperature: 0.05 };
    assert!(refusal(&token, &|question| question.answers.clear()).contains("has no answer to learn from"));
    let long = "word ".repeat(400);
    let too_long = refusal(&token, &|question| question.answers = vec![long.clone()]);
    assert!(too_long.contains("more than the 255 that the generator can read"), "{too_long}");
    let mnrl = Mnrl { scale: 20.0, hard_negatives: 1 };
    assert!(refusal(&mnrl, &|question| question.gold_passages.clear()).contains("has no gold passage"));
    let unknown = refusal(&mnrl, &|question| question.hard_negatives = vec!["none".into()]);
    assert!(unknown.contains("names hard negative `none`"), "{unknown}");
    let teacher = Distillation {
        form: TeacherLoss::Kl,
        temperature: 0.05,
        teacher_temperature: 1.0,
        direction: Direction::TargetToPrior,
    };
    let one = refusal(&teacher, &|question| question.teacher_scores.truncate(1));
    assert!(one.contains("teacher scores for 1 passages"), "{one}");
    assert!(refusal(&RagToken { temperature: 0.0 }, &|_| {}).contains("temperature `0`"));

    // The same before training begins, for all questions at once.
    let (generator, prompt): (&Generator, _) = (&world.pipeline.generator, &world.pipeline.prompt);
    let settings = StepSettings { max_answer_tokens: 32, ..SETTINGS };
    assert_eq!(check_answers(generator, prompt, &world.questions, &settings).unwrap(), 0);
    let mut questions = world.questions.clone();
    questions[1].answers[0] = "word ".repeat(40);
    assert_eq!(check_answers(generator, prompt, &questions, &settings).unwrap(), 1);
    questions[2].answers[0] = long;
    let error = check_answers(generator, prompt, &questions, &settings).unwrap_err().to_string();
    assert!(error.contains(&format!("`{}`", questions[2].id)), "{error}");
}
