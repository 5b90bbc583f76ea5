//! Every objective over a whole pipeline: what it says it moves is what it moves, a batch is the mean of its questions, a
//! memo changes no loss, and questions it cannot learn from are refused.

use std::cell::RefCell;
use std::path::Path;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use ragtune::cli::TrainArgs;
use ragtune::config::TrainConfig;
use ragtune::cost::{Ledger, Phase};
use ragtune::data::Question;
use ragtune::models::generator::Generator;
use ragtune::models::params::Params;
use ragtune::objectives::*;
use ragtune::pipeline::Pipeline;
use ragtune::pipeline::memo::Memo;
use ragtune::pipeline::step::{ByQuestion, Observed, Step, StepSettings, ToGenerator, check_answers};
use ragtune::strategies::Trains;
use ragtune::train::session::Session;

use crate::support::*;

const SETTINGS: StepSettings = StepSettings { top_k: 3, max_prompt_tokens: 100, max_answer_tokens: 8 };
const BOTH: Trains = Trains { questions: true, passages: false, generator: true };
const RETRIEVER: Trains = Trains { questions: true, passages: false, generator: false };

/// A pipeline over the tiny corpus, and questions with every label there is.
struct World {
    pipeline: Pipeline,
    questions: Vec<Question>,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    world_with(&small_generator())
}

fn world_with(generator: &Path) -> World {
    let folder = folder();
    let args = TrainArgs {
        strategy: Some("joint".into()),
        index: Some(index_copy(folder.path())),
        questions: Some(fixture("tiny/train.jsonl")),
        eval_questions: Some(fixture("tiny/dev.jsonl")),
        generator: Some(generator.into()),
        out: Some(folder.path().join("out")),
        max_answer_tokens: Some(8),
        ..TrainArgs::default()
    };
    let config = TrainConfig::resolve(&args).unwrap();
    let session = Session::prepare(&config, &config.stages().unwrap(), &Ledger::new()).unwrap();
    let mut questions = session.questions.questions;
    questions.truncate(4);
    let gold: Vec<String> = questions.iter().map(|question| question.gold_passages[0].clone()).collect();
    for (number, question) in questions.iter_mut().enumerate() {
        let next = |by: usize| gold[(number + by) % gold.len()].clone();
        question.hard_negatives = vec![next(1), next(2)];
        question.teacher_scores = vec![(next(0), 3.0), (next(1), -1.0)];
        // Rows of different lengths.
        question.teacher_scores.extend((number % 2 == 0).then(|| (next(3), 0.5)));
    }
    World { pipeline: session.pipeline, questions, _folder: folder }
}

/// Every objective, in every form whose path through a step differs.
fn objectives() -> Vec<Box<dyn Objective>> {
    let lsr = |direction, value| ReplugLsr {
        temperature: 0.1,
        target_temperature: 0.5,
        direction,
        value,
        length: Length::Mean,
    };
    let teacher = |form, direction| Distillation { form, temperature: 0.1, teacher_temperature: 1.0, direction };
    let preference = |preferred| Preference { temperature: 0.05, beta: 0.1, preferred, hard_negatives: 1 };
    vec![
        Box::new(Mnrl { scale: 20.0, hard_negatives: 0 }),
        Box::new(Mnrl { scale: 20.0, hard_negatives: 2 }),
        Box::new(SftConcat),
        Box::new(SftSeparate),
        Box::new(RagToken { temperature: 0.05 }),
        Box::new(RagSequence { temperature: 0.05 }),
        Box::new(Emdr2 { temperature: 0.05, mixture: Mixture::Sequence }),
        Box::new(Emdr2 { temperature: 0.05, mixture: Mixture::Token }),
        Box::new(Pdist { temperature: 0.05, target_temperature: 0.1, length: Length::Mean }),
        Box::new(Loop { temperature: 0.05, target_temperature: 0.1, length: Length::Mean }),
        Box::new(Adist { temperature: 0.05, target_temperature: 0.01 }),
        Box::new(lsr(Direction::PriorToTarget, Value::LogProbability)),
        Box::new(lsr(Direction::TargetToPrior, Value::LogProbability)),
        Box::new(RaDitRetriever { temperature: 0.05, target_temperature: 0.01 }),
        Box::new(ClRag { temperature: 0.05 }),
        Box::new(preference(Preferred::Likelihood)),
        Box::new(preference(Preferred::Gold)),
        Box::new(teacher(TeacherLoss::Kl, Direction::TargetToPrior)),
        Box::new(teacher(TeacherLoss::MarginMse, Direction::TargetToPrior)),
    ]
}

/// One step's loss, its gradients, what was seen, and the ledger.
struct Done {
    loss: f32,
    gradients: GradStore,
    observed: Observed,
    ledger: Ledger,
}

fn step(world: &World, objective: &dyn Objective, trains: Trains, memo: Option<&RefCell<Memo>>) -> Done {
    step_over(world, &world.questions, objective, trains, memo)
}

fn step_over(
    world: &World,
    questions: &[Question],
    objective: &dyn Objective,
    trains: Trains,
    memo: Option<&RefCell<Memo>>,
) -> Done {
    let ledger = Ledger::new();
    let questions: Vec<&Question> = questions.iter().collect();
    // Not the encoder itself: a reference to compare with that is somewhere else.
    let reference = world.pipeline.encoder.try_clone().unwrap();
    for (_, param) in reference.params().iter() {
        let moved = (param.var.as_detached_tensor() * 0.9).unwrap();
        param.var.set(&moved).unwrap();
    }
    let mut step = Step::new(&world.pipeline, &questions, trains, SETTINGS, &ledger)
        .with_reference(Some(&reference))
        .with_memo(memo);
    let loss = objective.loss(&mut step).unwrap_or_else(|error| panic!("{}: {error}", objective.name()));
    assert!(loss.dims().is_empty(), "{}", objective.name());
    let mut gradients = loss.backward().unwrap();
    world.pipeline.encoder.finish_backward(&mut gradients).unwrap();
    let observed = step.observed;
    Done { loss: loss.to_scalar().unwrap(), gradients, observed, ledger }
}

fn moved(gradients: &GradStore, params: &Params) -> bool {
    let norms: Vec<f32> = params
        .iter()
        .filter_map(|(_, param)| gradients.get(&param.var))
        .map(|gradient| gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap())
        .collect();
    assert!(norms.iter().all(|norm| norm.is_finite()));
    norms.iter().any(|norm| *norm > 0.0)
}

#[test]
fn an_objective_moves_what_it_says_where_that_trains() {
    let world = world();
    let off = Trains::default();
    let cases = [
        RETRIEVER,
        Trains { questions: true, passages: true, ..off },
        Trains { generator: true, ..off },
        BOTH,
        Trains { questions: true, passages: true, generator: true },
    ];
    for objective in objectives() {
        let (name, needs) = (objective.name(), objective.needs());
        assert!(!objective.equation().is_empty() && needs.moves_retriever | needs.moves_generator, "{name}");
        assert!(world.questions.iter().all(|question| needs.lacking(question).is_none()), "{name}");
        assert!(!needs.labels().is_empty(), "{name}");
        for trains in cases {
            let done = step(&world, objective.as_ref(), trains, None);
            assert!(done.loss.is_finite(), "{name} {trains:?}");
            let encoder = moved(&done.gradients, world.pipeline.encoder.params());
            let generator = moved(&done.gradients, world.pipeline.generator.params());
            assert_eq!(encoder, trains.encoder() && needs.moves_retriever, "{name} {trains:?}: encoder");
            assert_eq!(generator, trains.generator && needs.moves_generator, "{name} {trains:?}: generator");
            // What it says it asks for is what it asks for.
            let seen = &done.observed;
            assert_eq!(!seen.retrieved.is_empty(), needs.retrieval, "{name} {trains:?}");
            let (b, k) = (world.questions.len() as u64, SETTINGS.top_k as u64);
            let reader = needs.concat && !needs.attention && (trains.generator || !needs.moves_retriever);
            let prompts = b * k * (u64::from(needs.single_prompts) + u64::from(needs.leave_one_out))
                + b * (u64::from(reader) + u64::from(needs.attention) * (1 + u64::from(trains.generator)));
            assert_eq!(seen.prompts, prompts, "{name} {trains:?}");
            assert_eq!(seen.likelihoods.questions > 0, needs.single_prompts || needs.leave_one_out, "{name}");
            assert_eq!(seen.hard_negatives > 0, needs.hard_negatives, "{name}");
            assert!(!seen.single_passage && seen.likelihoods.flat == 0, "{name}: {seen:?}");
            // Probabilities of unlikely answers are all near 0: that such a target says nothing is noticed.
            assert_eq!(seen.targets.flat > 0, name == "ra-dit-retriever", "{name}: {seen:?}");
            assert_eq!(seen.encoder_flops > 0.0, trains.encoder(), "{name} {trains:?}");
            assert_eq!(seen.generator_flops > 0.0, trains.generator && needs.moves_generator, "{name} {trains:?}");
            let charged = |phase| done.ledger.snapshot().phase(phase).counts;
            assert_eq!(charged(Phase::Score).tokens > 0, prompts > 0, "{name} {trains:?}");
            let live = trains.passages && needs.moves_retriever;
            assert_eq!(charged(Phase::Embed).passages > 0, live, "{name} {trains:?}");
        }
    }
}

#[test]
fn a_loss_of_single_questions_is_their_mean() {
    let world = world();
    for objective in objectives() {
        let whole = step(&world, objective.as_ref(), RETRIEVER, None).loss;
        let each: Vec<f32> = world
            .questions
            .chunks(1)
            .map(|question| step_over(&world, question, objective.as_ref(), RETRIEVER, None).loss)
            .collect();
        let mean = each.iter().sum::<f32>() / each.len() as f32;
        let same = (whole - mean).abs() < 1e-4 * whole.abs().max(0.1);
        assert_eq!(same, objective.per_question(), "{}: {whole} against {mean}", objective.name());
    }
}

#[test]
fn a_ranking_loss_in_chunks_is_that_of_the_whole_batch() {
    // Oracle 13: cached gradients.
    let mut world = world();
    let objective = Mnrl { scale: 20.0, hard_negatives: 2 };
    let trains = Trains { passages: true, ..RETRIEVER };
    let all = |done: &Done, world: &World| -> Vec<Vec<f32>> {
        let params = world.pipeline.encoder.params().trainable();
        params.map(|(_, var)| done.gradients.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    world.pipeline.encoder.set_chunks(None);
    let whole = step(&world, &objective, trains, None);
    let expected = all(&whole, &world);
    world.pipeline.encoder.set_chunks(Some(1));
    let chunks = step(&world, &objective, trains, None);
    assert!((whole.loss - chunks.loss).abs() < 1e-5 * whole.loss.abs().max(1.0));
    for (expected, got) in expected.iter().zip(all(&chunks, &world)) {
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
        let apart = norm(&mut expected.iter().zip(&got).map(|(one, other)| one - other));
        let size = norm(&mut expected.iter().copied());
        assert!(apart <= 1e-5 * size + 1e-6 && size > 0.0, "{apart} of {size}");
    }
}

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
                let of = |done: &Done| done.gradients.get(&param.var).map(|gradient: &Tensor| gradient.clone());
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
