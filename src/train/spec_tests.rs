//! Tests of stage ids: what they depend on, and what not.

use super::*;

fn content() -> Content {
    let named = |name: &str| name.to_owned();
    Content {
        encoder: named("encoder"),
        generator: named("generator"),
        selector: None,
        passages: named("passages"),
        gaps: None,
        graph: Some(named("links 16")),
        vectors: named("vectors"),
        questions: named("questions"),
        selection: None,
        prompt: named("prompt"),
    }
}

fn config(strategy: &str, more: &str) -> TrainConfig {
    let text = format!(
        "strategy = \"{strategy}\"\nindex = \"i\"\nquestions = \"q\"\neval-questions = \"e\"\ngenerator = \"g\"\nout = \"o\"\n{more}"
    );
    TrainConfig::of_settings(toml::from_str(&text).unwrap()).unwrap()
}

/// Ids by name of stage.
fn ids(strategy: &str, more: &str, content: &Content) -> BTreeMap<String, String> {
    let config = config(strategy, more);
    let planned = plan(&config, &config.stages().unwrap(), content).unwrap();
    planned.into_iter().map(|planned| (planned.spec.name, planned.id)).collect()
}

const EARLY: &str = "selection-questions = \"s\"\nearly-stop = 2\neval-every = 5\n";

#[test]
fn what_is_read_is_in_the_id_by_content() {
    let of = |content: &Content| ids("generator", "", content)["generator"].clone();
    let plain = of(&content());
    let others = [
        Content { passages: "others".into(), ..content() },
        Content { gaps: Some("gaps".into()), ..content() },
        Content { graph: Some("links 8".into()), ..content() },
        Content { generator: "another tokenizer".into(), ..content() },
    ];
    for other in &others {
        assert_ne!(of(other), plain, "{other:?}");
    }
    // A stage that searches for nothing does not depend on how it would be searched.
    let embedder = |content: &Content| ids("embedder", "", content)["embedder"].clone();
    assert_eq!(embedder(&others[2]), embedder(&content()));
    assert_ne!(embedder(&others[0]), embedder(&content()));
}

#[test]
fn under_early_stopping_a_stage_depends_on_the_whole_pipeline_that_is_evaluated() {
    let with = |selector: &str| Content { selector: Some(selector.into()), ..content() };
    let warm_up = |more: &str, content: &Content| ids("dro", more, content)["generator-warm-up"].clone();
    let (few, many) = ("[dro]\ncandidates = 6\n", "[dro]\ncandidates = 8\n");
    // Without it the stage that warms up the generator knows no selector.
    assert_eq!(warm_up(few, &with("a")), warm_up(many, &with("b")));
    let early = |more: &str| format!("{EARLY}{more}");
    assert_ne!(warm_up(&early(few), &with("a")), warm_up(&early(few), &with("b")));
    assert_ne!(warm_up(&early(few), &with("a")), warm_up(&early(many), &with("a")));
    // A reader that is not said follows from the stages that come after.
    let first = |more: &str| ids("self-distil", more, &content())["warm-up"].clone();
    assert_eq!(first(""), first("only-stages = 1\n"));
    assert_ne!(first(EARLY), first(&early("only-stages = 1\n")));
    let said = |more: &str| first(&early(&format!("eval-reader = \"concat\"\n{more}")));
    assert_eq!(said(""), said("only-stages = 1\n"));
}

#[test]
fn a_stage_that_is_cut_short_leaves_those_before_it_as_they_are() {
    let whole = ids("two-phase", "steps = 90\n", &content());
    let short = ids("two-phase", "steps = 90\nonly-stages = 2\nlast-steps = 30\n", &content());
    assert_eq!(whole["generator"], short["generator"]);
    assert_ne!(whole["encoder-through-generator"], short["encoder-through-generator"]);
    assert_eq!(
        ids("generator", "steps = 30\n", &content()),
        ids("generator", "steps = 90\nonly-stages = 1\nlast-steps = 30\n", &content())
    );
}
