//! What a backward pass is charged.

use super::*;

/// Of a part with an adapter the backward pass is that of activations alone, whatever the other parts have.
#[test]
fn a_part_is_charged_by_its_own_adapter() {
    let folder = folder();
    let index = index_copy(folder.path());
    let backward = |name: &str, lora: bool| {
        let case = Case {
            strategy: "dro",
            train_passages: false,
            reader: "mixture",
            lora,
            objective: JointObjective::RagToken,
            form: Form::Selector,
        };
        let args = TrainArgs { steps: Some(1), ..args(&case, &index, &folder.path().join(name)) };
        let left = run(&args, |trainer, _| {
            // Of the generator nothing trains, so that it has no adapter.
            assert!(trainer.pipeline.generator.lora().is_none());
            assert_eq!(trainer.pipeline.selector.as_ref().unwrap().generator.lora().is_some(), lora);
        });
        left.record.ledger.entry(Activity::Train, Phase::Backward).unwrap().counts.flops
    };
    let (adapter, whole) = (backward("adapter", true), backward("whole", false));
    // An adapter that has not moved draws the same lists; its own products are few.
    let ratio = whole / adapter;
    assert!((1.6..=2.0).contains(&ratio), "{whole} of all weights, {adapter} of an adapter: {ratio}");
}
