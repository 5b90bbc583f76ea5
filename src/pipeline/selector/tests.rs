use ragtune_index::Passage;

use super::*;
use crate::cost::{Ledger, Phase};
use crate::models::Grad;
use crate::models::generator::golden::{fixture, shared, values};
use crate::models::lora::LoraConfig;

fn qa_llama(candidates: usize) -> Selector {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/qa-llama");
    Selector::of_generator(&dir, candidates, None, &Device::Cpu).unwrap()
}

fn passages(count: usize, words: usize) -> Vec<Passage> {
    let of = |index: usize| Passage {
        id: index.to_string(),
        title: format!("Title {index}"),
        text: (0..words + index).map(|word| format!("word{word}")).collect::<Vec<_>>().join(" "),
    };
    (0..count).map(of).collect()
}

fn refs(passages: &[Passage]) -> Vec<&Passage> {
    passages.iter().collect()
}

#[test]
fn candidates_are_numbered_and_shortened_alike() {
    let selector = qa_llama(20);
    let read = |input: &SelectorInput| selector.generator.text().decode(&input.ids).unwrap();
    let few = passages(3, 4);
    let input = selector.input("who?", &refs(&few), 2).unwrap();
    assert!(!input.truncated);
    assert_eq!(
        read(&input).trim(),
        "[1] Title 0: word0 word1 word2 word3\n[2] Title 1: word0 word1 word2 word3 word4\n\
         [3] Title 2: word0 word1 word2 word3 word4 word5\nQuestion: who?\nMost useful passages:"
    );
    let many = passages(20, 60);
    let input = selector.input("who?", &refs(&many), 5).unwrap();
    assert!(input.truncated && input.ids.len() <= selector.prompt_limit(5));
    // Room for the longest list after it, and not much left unused: one more word for each would not fit.
    assert_eq!(selector.prompt_limit(5), 512 - selector.identifiers.longest_list(5) - 1);
    let text = read(&input);
    let lines: Vec<&str> = text.trim().lines().take(20).collect();
    let kept: Vec<usize> = lines.iter().map(|line| line.matches("word").count()).collect();
    assert!(kept[0] > 0 && kept.iter().all(|count| *count == kept[0]), "{kept:?}");
    assert!(lines[19].starts_with("[20] Title 19: word0"), "{}", lines[19]);
    assert!(input.ids.len() + 20 * 3 > selector.prompt_limit(5), "{} of {}", input.ids.len(), selector.prompt_limit(5));

    let error = selector.input(&"why ".repeat(600), &refs(&few), 2).unwrap_err();
    assert!(error.to_string().contains("more than the limit"), "{error}");
    assert!(selector.input("who?", &refs(&passages(21, 1)), 2).unwrap_err().to_string().contains("`21` candidates"));
    assert!(selector.input("who?", &[], 2).is_err());
}

/// Drawn lists have the log-probability that scoring gives them, whichever tokenizer cuts the numbers, and with fewer
/// candidates than are chosen.
#[test]
fn drawn_lists_are_scored_as_they_were_drawn() {
    let ledger = Ledger::new();
    let folders = [fixture("dro")].into_iter().chain(shared("stories260k-hf"));
    for folder in folders {
        let selector = Selector::of_generator(&folder, 12, None, &Device::Cpu).unwrap();
        let (twelve, two) = (passages(12, 0), passages(2, 0));
        let inputs = [selector.input("q", &refs(&twelve), 3).unwrap(), selector.input("q", &refs(&two), 3).unwrap()];
        let keyed = [("one", &inputs[0]), ("two", &inputs[1])];
        let key = SampleKey { seed: 1, step: 1 };
        let span = ledger.span(Phase::Select);
        let drawn = selector.sample(&keyed, 3, 5, Sampling::default(), key, &span).unwrap();
        assert_eq!((drawn[0][0].list.len(), drawn[1][0].list.len()), (3, 2));
        let lists: Vec<Vec<Vec<u32>>> =
            drawn.iter().map(|drawn| drawn.iter().map(|written| written.list.clone()).collect()).collect();
        let questions: Vec<(&SelectorInput, &[Vec<u32>])> =
            inputs.iter().zip(lists.iter().map(Vec::as_slice)).collect();
        let scored = values(&selector.log_probs(&questions, Scoring::Trie, Grad::Off).unwrap());
        for (written, scored) in drawn.iter().flatten().zip(scored) {
            assert!((written.log_prob - f64::from(scored)).abs() < 2e-4, "{written:?} {scored}");
        }
        // Alone or among others, a question draws the same.
        let alone = selector.sample(&keyed[..1], 3, 5, Sampling::default(), key, &span).unwrap();
        assert_eq!(
            alone[0].iter().map(|written| &written.list).collect::<Vec<_>>(),
            lists[0].iter().collect::<Vec<_>>()
        );
        // The greedy list is the one that a cold draw takes.
        let cold = Sampling { temperature: 1e-6, top_p: 1.0 };
        let cold = selector.sample(&keyed, 3, 1, cold, key, &span).unwrap();
        let greedy = selector.select(&[&inputs[0], &inputs[1]], 3, &span).unwrap();
        assert_eq!(greedy, [cold[0][0].list.clone(), cold[1][0].list.clone()]);
    }
    let (tokens, flops) = {
        let record = ledger.snapshot();
        let counts = record.phase(Phase::Select).counts;
        (counts.tokens, counts.flops)
    };
    assert!(tokens > 0 && flops > 0.0);
}

/// Gradient descent on one list makes it the one that is served; an adapter learns as well as whole weights.
#[test]
fn a_selector_learns_a_list() {
    let ledger = Ledger::new();
    for adapter in [false, true] {
        let mut selector = Selector::of_generator(&fixture("dro"), 12, None, &Device::Cpu).unwrap();
        if adapter {
            let config = LoraConfig { rank: 4, targets: vec!["all-linear".into()], ..LoraConfig::default() };
            selector.generator.add_lora(&config, 1).unwrap();
        }
        let input = selector.input("q", &refs(&passages(12, 0)), 3).unwrap();
        let list = vec![vec![10, 0, 11]];
        let mut losses = Vec::new();
        for _ in 0..60 {
            let loss = selector.log_probs(&[(&input, &list)], Scoring::Trie, Grad::On).unwrap().neg().unwrap();
            losses.push(values(&loss)[0]);
            let store = loss.backward().unwrap();
            for (_, var) in selector.generator.params().trainable() {
                let gradient = store.get(var).unwrap();
                let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
                let rate = 0.1 / f64::from(norm.max(1.0));
                var.set(&(var.as_tensor() - (gradient * rate).unwrap()).unwrap()).unwrap();
            }
        }
        assert!(losses[59] < 0.2 * losses[0], "{adapter}: {losses:?}");
        assert_eq!(selector.select(&[&input], 3, &ledger.span(Phase::Select)).unwrap(), list);
    }
}

#[test]
fn a_selector_is_saved_and_read_whole_or_as_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let mut selector = Selector::of_generator(&fixture("dro"), 4, None, &Device::Cpu).unwrap();
    let input = selector.input("q", &refs(&passages(4, 1)), 2).unwrap();
    let score = |selector: &Selector| {
        values(&selector.log_probs(&[(&input, &[vec![2, 0]])], Scoring::Free, Grad::Off).unwrap())[0]
    };
    let whole = folder.path().join("whole");
    selector.save(&whole).unwrap();
    assert_eq!(Selector::kind(&whole).unwrap(), Kind::Whole);
    let read = Selector::load(&whole, None, 4, None, &Device::Cpu).unwrap();
    assert_eq!(score(&read).to_bits(), score(&selector).to_bits());
    assert_eq!(read.prompt.template(), selector.prompt.template());
    assert!(
        Selector::load(&whole, Some(&whole), 4, None, &Device::Cpu).unwrap_err().to_string().contains("whole model")
    );

    let config = LoraConfig { rank: 2, targets: vec!["all-linear".into()], ..LoraConfig::default() };
    selector.generator.add_lora(&config, 1).unwrap();
    for (_, var) in selector.generator.params().trainable() {
        var.set(&(var.as_tensor() + 0.05).unwrap()).unwrap();
    }
    let adapter = folder.path().join("adapter");
    selector.save(&adapter).unwrap();
    let Kind::Adapter(Some(base)) = Selector::kind(&adapter).unwrap() else { panic!("an adapter names its base") };
    assert_eq!(Path::new(&base), fixture("dro"));
    let read = Selector::load(&adapter, Some(&fixture("dro")), 4, None, &Device::Cpu).unwrap();
    assert_eq!(score(&read).to_bits(), score(&selector).to_bits());
    assert!(Selector::load(&adapter, None, 4, None, &Device::Cpu).unwrap_err().find_hint().unwrap().contains("base"));

    // A template of its own; one that does not number its passages is refused.
    let write = |text: &str| std::fs::write(whole.join(PROMPT_FILE), text).unwrap();
    write(r#"{"passage": "<{number}> {text}\n", "question": "{question} =>", "max_prompt_tokens": 100}"#);
    let read = Selector::load(&whole, None, 4, None, &Device::Cpu).unwrap();
    assert_eq!(read.prompt.template().question, "{question} =>");
    assert_eq!((read.prompt_limit(2), read.prompt.template().answer_prefix.as_str()), (100, " "));
    write(r#"{"passage": "{text}\n"}"#);
    let error = Selector::load(&whole, None, 4, None, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("does not number"), "{error}");
    assert!(Selector::of_generator(&fixture("dro"), 0, None, &Device::Cpu).unwrap_err().to_string().contains("`0`"));
}
