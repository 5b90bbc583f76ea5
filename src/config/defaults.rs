//! What a setting is where neither file nor flag says otherwise.

use crate::objectives::{Direction, Length, Preferred, TeacherLoss, Value};
use crate::strategies::{JointObjective, Recipe};
use crate::train::refresh::Policy;

pub(super) fn refresh() -> Policy {
    Policy::FullReuse
}
pub(super) fn steps() -> u64 {
    500
}
pub(super) fn batch_size() -> usize {
    8
}
pub(super) fn batch_tokens() -> usize {
    8192
}
pub(super) fn top_k() -> usize {
    5
}
pub(super) fn lr_encoder() -> f64 {
    2e-5
}
pub(super) fn lr_generator() -> f64 {
    1e-4
}
pub(super) fn temperature() -> f64 {
    0.05
}
pub(super) fn scale() -> f64 {
    20.0
}
pub(super) fn beams() -> usize {
    1
}
pub(super) fn schedule() -> String {
    "linear".into()
}
pub(super) fn clip() -> f64 {
    1.0
}
pub(super) fn lora_alpha() -> f64 {
    16.0
}
pub(super) fn lora_targets() -> Vec<String> {
    vec!["all-linear".into()]
}
pub(super) fn max_answer_tokens() -> usize {
    32
}
pub(super) fn checkpoint_every() -> u64 {
    100
}
pub(super) fn keep_checkpoints() -> usize {
    2
}
pub(super) fn ef() -> usize {
    64
}
pub(super) fn generator_dtype() -> String {
    "f32".into()
}
pub(super) fn device() -> String {
    "cpu".into()
}
pub(super) fn objective() -> JointObjective {
    Recipe::default().objective
}
pub(super) fn length() -> Length {
    Recipe::default().length
}
pub(super) fn direction() -> Direction {
    Recipe::default().direction
}
pub(super) fn target() -> Value {
    Recipe::default().value
}
pub(super) fn beta() -> f64 {
    Recipe::default().beta
}
pub(super) fn preferred() -> Preferred {
    Recipe::default().preferred
}
pub(super) fn teacher_loss() -> TeacherLoss {
    Recipe::default().teacher_loss
}
pub(super) fn memo_mib() -> usize {
    256
}
pub(super) fn select_by() -> String {
    "f1".into()
}
