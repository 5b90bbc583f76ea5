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

mod memo;
mod quantities;

const SETTINGS: StepSettings = StepSettings { top_k: 3, max_prompt_tokens: 100, max_answer_tokens: 8 };
const BOTH: Trains = Trains { questions: true, passages: false, generator: true, selector: false };
const RETRIEVER: Trains = Trains { questions: true, passages: false, generator: false, selector: false };

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
        Trains { questions: true, passages: true, generator: true, ..Trains::default() },
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
