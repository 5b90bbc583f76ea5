//! Distillation from given scores: a cross-encoder, or any other teacher, judged some passages of each question.
//!
//! Two forms, named, over the passages that a question's `teacher_scores` name (two at least):
//!
//! * `kl`: `KL(t || p)` or `KL(p || t)` with `p = softmax(s / tau)` and `t = softmax(teacher / tau_t)` over those passages
//!   (list-wise distillation, for instance RocketQAv2, arXiv 2110.07367, which trains its teacher too).
//! * `margin-mse`: `mean_{i<j} [(s_i - s_j) / tau - (teacher_i - teacher_j) / tau_t]^2` (Hofstätter et al. 2020, arXiv
//!   2010.02666). Deviation: the paper has one pair a question, a gold passage and a negative; here all pairs of
//!   the scored passages count, which with two passages is the same. Its unit is nats squared, if the scores are in nats.
//!
//! Pairs and questions are averaged.
//!
//! Trains: question side, and passage side when passage vectors are live. Labels: teacher scores.

use candle_core::Tensor;

use super::choice::Direction;
use super::kernel::{divergence, log_prior, mean, positive, present};
use super::pairwise::margins;
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::Step;

choice! {
    /// How the retriever's scores follow the teacher's.
    TeacherLoss ("form of distillation") {
        /// Their distributions are to agree.
        Kl = "kl",
        /// Their differences are to agree.
        MarginMse = "margin-mse",
    }
}

/// Distillation in one of its forms.
pub struct Distillation {
    /// Which form.
    pub form: TeacherLoss,
    /// Temperature tau of the retriever's scores, above 0.
    pub temperature: f64,
    /// Temperature tau_t of the teacher's scores, above 0.
    pub teacher_temperature: f64,
    /// Which way the divergence is taken (`kl` only).
    pub direction: Direction,
}

impl Objective for Distillation {
    fn name(&self) -> &'static str {
        "distillation"
    }

    fn equation(&self) -> &'static str {
        match (self.form, self.direction) {
            (TeacherLoss::Kl, Direction::TargetToPrior) => {
                "KL(softmax(teacher/tau_t) || softmax(s/tau)) over the scored passages, mean over questions"
            }
            (TeacherLoss::Kl, Direction::PriorToTarget) => {
                "KL(softmax(s/tau) || softmax(teacher/tau_t)) over the scored passages, mean over questions"
            }
            (TeacherLoss::MarginMse, _) => {
                "mean_{i<j} [(s_i-s_j)/tau - (teacher_i-teacher_j)/tau_t]^2 over the scored passages, mean over questions \
                 (arXiv 2010.02666)"
            }
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("form", self.form.name().to_owned()),
            ("temperature", self.temperature.to_string()),
            ("teacher temperature", self.teacher_temperature.to_string()),
        ];
        if self.form == TeacherLoss::Kl {
            settings.push(("direction", self.direction.name().to_owned()));
        }
        settings
    }

    fn needs(&self) -> Needs {
        Needs { teacher_scores: true, moves_retriever: true, ..Needs::default() }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let (candidates, teacher) = step.scored_by_teacher()?;
        step.note_target_among(&teacher, candidates.mask())?;
        let scores = step.candidate_scores(&candidates)?;
        let (tau, teacher_tau, mask) = (self.temperature, self.teacher_temperature, candidates.mask());
        match self.form {
            TeacherLoss::Kl => teacher_kl_loss(&scores, tau, &teacher, teacher_tau, mask, self.direction),
            TeacherLoss::MarginMse => margin_mse_loss(&scores, tau, &teacher, teacher_tau, mask),
        }
    }
}

/// The divergence alone: `scores`, constant `teacher` and `mask` (B, C), 1 where there is a candidate. Scalar, mean over B.
pub fn teacher_kl_loss(
    scores: &Tensor,
    temperature: f64,
    teacher: &Tensor,
    teacher_temperature: f64,
    mask: &Tensor,
    direction: Direction,
) -> Result<Tensor> {
    let target = log_prior(&present(&teacher.detach(), mask)?, teacher_temperature)?;
    mean(&divergence(&target, &log_prior(&present(scores, mask)?, temperature)?, direction)?)
}

/// The squared differences alone: `scores`, constant `teacher` and `mask` (B, C), 1 where there is a candidate. Scalar, mean
/// over a question's pairs and over B; a question with one candidate adds 0.
pub fn margin_mse_loss(
    scores: &Tensor,
    temperature: f64,
    teacher: &Tensor,
    teacher_temperature: f64,
    mask: &Tensor,
) -> Result<Tensor> {
    let student = (scores / positive("temperature", temperature)?)?;
    let teacher = (teacher.detach() / positive("teacher temperature", teacher_temperature)?)?;
    let pairs = mask.unsqueeze(2)?.broadcast_mul(&mask.unsqueeze(1)?)?;
    // Both orders of a pair have the same square, and a candidate with itself adds 0: their sum over C (C - 1) is the mean.
    let squares = ((margins(&student)? - margins(&teacher)?)?.sqr()? * pairs)?.sum((1, 2))?;
    let count = mask.sum(1)?;
    let ordered = (&count * (&count - 1.0)?)?.maximum(1.0)?;
    mean(&(squares / ordered)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden, gradient, numbers, tensor, var, variable};
    use super::*;

    #[test]
    fn equals_pytorch_in_every_form() {
        let golden = golden("objectives_retriever", "teacher");
        let (scores, teacher, mask) = (var(&golden["scores"]), var(&golden["teacher"]), &golden["mask"]);
        let check = |form: &str, loss: Result<Tensor>| {
            let named = |what: &str| (what.to_owned(), golden[&format!("{form}.{what}")].clone());
            check_golden(form, &[named("loss"), named("scores.grad")].into(), &loss.unwrap(), &[("scores", &scores)]);
        };
        for direction in Direction::ALL {
            check(direction.name(), teacher_kl_loss(&scores, 0.05, &teacher, 2.0, mask, *direction));
        }
        check("margin-mse", margin_mse_loss(&scores, 0.05, &teacher, 2.0, mask));
    }

    #[test]
    fn scores_that_differ_as_the_teacher_s_have_no_loss() {
        let scores = variable(&[0.1, 0.2, 0.4, 9.0], &[1, 4]);
        let (teacher, mask) = (tensor(&[5.0, 6.0, 8.0, 0.0], &[1, 4]), tensor(&[1.0, 1.0, 1.0, 0.0], &[1, 4]));
        let loss = margin_mse_loss(&scores, 0.1, &teacher, 1.0, &mask).unwrap();
        assert!(numbers(&loss)[0].abs() < 1e-9);
        for direction in Direction::ALL {
            let loss = teacher_kl_loss(&scores, 0.1, &teacher, 1.0, &mask, *direction).unwrap();
            assert!(numbers(&loss)[0].abs() < 1e-6);
            assert!(gradient(&loss, &scores).iter().all(|g| g.abs() < 1e-5));
        }
    }
}
