//! Settings from file and flags, and what is refused.

use super::*;

#[test]
fn flags_win_over_the_file_and_the_run_folder_reads_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, "steps = 7\ntop-k = 3\nlr-encoder = 1e-6\n").unwrap();
    let args = TrainArgs { config: Some(file.clone()), top_k: Some(4), ..TrainArgs::of_tests() };
    let config = TrainConfig::resolve(&args).unwrap();
    assert_eq!((config.dropout, config.lora_dropout), (Dropping::Off, 0.0));
    assert_eq!((config.steps, config.top_k, config.lr_encoder, config.batch_size), (7, 4, 1e-6, 8));
    std::fs::write(folder.path().join("config.toml"), config.to_toml().unwrap()).unwrap();
    assert_eq!(TrainConfig::of_run(folder.path()).unwrap(), config);
    std::fs::write(&file, "dropout = 0.2\n").unwrap();
    for (typed, dropping) in [(None, Dropping::Share(0.2)), (Some("config".into()), Dropping::Config)] {
        let config =
            TrainConfig::resolve(&TrainArgs { config: Some(file.clone()), dropout: typed, ..TrainArgs::of_tests() })
                .unwrap();
        assert_eq!(config.dropout, dropping);
        std::fs::write(folder.path().join("config.toml"), config.to_toml().unwrap()).unwrap();
        assert_eq!(TrainConfig::of_run(folder.path()).unwrap(), config);
    }
    // What a file says may be meant for several strategies.
    std::fs::write(&file, "direction = \"prior-to-target\"\n").unwrap();
    TrainConfig::resolve(&args).unwrap();
    std::fs::write(&file, "stepz = 7\n").unwrap();
    let error = TrainConfig::resolve(&args).unwrap_err();
    assert!(format!("{:?}", error).contains("stepz"));
}

#[test]
fn everything_that_is_missing_is_named_at_once() {
    let error = TrainConfig::resolve(&TrainArgs { out: None, generator: None, ..TrainArgs::of_tests() })
        .unwrap_err()
        .to_string();
    assert!(error.contains("`generator`, `out`") && !error.contains("index"), "{error}");
    // What is required is what has no default, no more and no less.
    let given =
        |name: &&str| ((*name).to_owned(), toml::Value::from(if *name == "strategy" { "joint" } else { *name }));
    let all: toml::Table = REQUIRED.iter().map(given).collect();
    TrainConfig::of_settings(all.clone()).unwrap();
    for name in REQUIRED {
        let mut most = all.clone();
        most.remove(name);
        assert!(TrainConfig::of_settings(most).unwrap_err().to_string().ends_with(&format!("lack `{name}`")));
    }
}

#[test]
fn whoever_asks_for_refreshes_means_passages_to_move() {
    let moves = |change: fn(&mut TrainArgs)| {
        let mut args = TrainArgs::of_tests();
        change(&mut args);
        TrainConfig::resolve(&args).unwrap().train_passages
    };
    assert!(!moves(|_| {}));
    assert!(moves(|args| args.refresh_every = Some(500)));
    assert!(moves(|args| args.refresh_schedule = Some("0-100:5".into())));
    assert!(!moves(|args| args.refresh_every = Some(0)));
    assert!(!moves(|args| (args.refresh_every, args.train_passages) = (Some(500), Some(false))));
    assert!(!moves(|args| (args.refresh_every, args.strategy) = (Some(500), Some("generator".into()))));
}

#[test]
fn how_answers_are_learnt_and_how_they_are_read_are_two_settings() {
    let resolved = |change: fn(&mut TrainArgs)| {
        let mut args = TrainArgs::of_tests();
        change(&mut args);
        let config = TrainConfig::resolve(&args).unwrap();
        let order = config.eval_order().unwrap();
        let read = config.eval_reader().unwrap().label(order, config.beams, config.length_penalty);
        (config.training_reader().unwrap(), read)
    };
    assert_eq!(resolved(|_| {}), (Some("mixture"), "mixture".to_owned()));
    let concat = |a: &mut TrainArgs| {
        (a.strategy, a.reader) = (Some("generator".into()), Some("concat".into()));
    };
    assert_eq!(resolved(concat), (Some("concat"), "concat".to_owned()));
    let other = |a: &mut TrainArgs| {
        (a.eval_reader, a.beams) = (Some("sequence-thorough".into()), Some(4));
    };
    assert_eq!(resolved(other), (Some("mixture"), "sequence-thorough beam 4".to_owned()));
    let embedder = |a: &mut TrainArgs| {
        (a.strategy, a.eval_reader) = (Some("embedder".into()), Some("concat".into()));
        (a.beams, a.length_penalty) = (Some(2), Some(0.5));
    };
    assert_eq!(resolved(embedder), (None, "concat beam 2 penalty 0.5".to_owned()));
}

#[test]
fn passages_are_read_in_the_order_that_was_learnt_unless_another_is_asked_for() {
    let order = |strategy: &str, reader: Option<&str>, order: Option<&str>| {
        let (eval_reader, eval_order) = (reader.map(str::to_owned), order.map(str::to_owned));
        let args = TrainArgs { strategy: Some(strategy.into()), eval_reader, eval_order, ..TrainArgs::of_tests() };
        TrainConfig::resolve(&args).map(|config| config.eval_order().unwrap())
    };
    assert_eq!(order("noisy-context", None, None).unwrap(), Order::BothEnds);
    assert_eq!(order("noisy-context", None, Some("best-first")).unwrap(), Order::BestFirst);
    assert_eq!(order("noisy-context", Some("mixture"), None).unwrap(), Order::BestFirst);
    assert_eq!(order("frozen", Some("concat"), None).unwrap(), Order::BestFirst);
    // It needs no training.
    assert_eq!(order("frozen", Some("concat"), Some("both-ends")).unwrap(), Order::BothEnds);
    let error = order("joint", None, Some("both-ends")).unwrap_err();
    assert!(error.to_string().contains("`both-ends`") && error.to_string().contains("`mixture`"), "{error}");
    assert!(format!("{:?}", order("frozen", None, Some("worst-first")).unwrap_err()).contains("`best-first`"));
}

#[test]
fn a_model_of_the_hub_stays_at_the_commit_the_run_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let args = TrainArgs { generator: Some("owner/name@v1".into()), ..TrainArgs::of_tests() };
    let mut config = TrainConfig::resolve(&args).unwrap();
    let typed = Path::new("owner/name@v1");
    assert_eq!(config.pinned("generator", typed), typed);
    let origin = Origin { repo: "owner/name".into(), revision: "v1".into(), commit: "0f".into() };
    config.hub.insert("generator".into(), origin);
    std::fs::write(folder.path().join("config.toml"), config.to_toml().unwrap()).unwrap();
    let read = TrainConfig::of_run(folder.path()).unwrap();
    assert_eq!(read, config);
    assert_eq!(read.pinned("generator", typed), Path::new("owner/name@0f"));
    // Another model, another revision, another part: what was typed.
    for other in ["owner/other@v1", "owner/name", "./owner"] {
        assert_eq!(read.pinned("generator", Path::new(other)), Path::new(other));
    }
    assert_eq!(read.pinned("encoder", typed), typed);
}

#[test]
fn settings_that_contradict_each_other_are_refused_before_any_work() {
    let refused = |change: fn(&mut TrainArgs)| {
        let mut args = TrainArgs::of_tests();
        change(&mut args);
        TrainConfig::resolve(&args).unwrap_err()
    };
    assert!(refused(|a| a.top_k = Some(0)).to_string().contains("--top-k 0"));
    assert!(
        refused(|a| (a.objective, a.top_k) = (Some("loop".into()), Some(1))).to_string().contains("`loop`"),
        "nothing is left when the only passage is left out"
    );
    let teacher = |a: &mut TrainArgs| (a.strategy, a.teacher_temperature) = (Some("distil".into()), Some(0.0));
    assert!(refused(teacher).to_string().contains("--teacher-temperature"));
    let unread = refused(|a| a.direction = Some("prior-to-target".into()));
    assert!(unread.to_string().contains("`--direction`") && unread.find_hint().unwrap().contains("replug"), "{unread}");
    assert!(refused(|a| a.temperature = Some(0.0)).to_string().contains("--temperature"));
    assert!(refused(|a| a.lr_encoder = Some(f64::NAN)).to_string().contains("not"));
    assert!(refused(|a| a.strategy = Some("best".into())).to_string().contains("`best`"));
    assert!(refused(|a| a.eval_questions = Some("train.jsonl".into())).to_string().contains("train.jsonl"));
    assert!(refused(|a| a.reader = Some("concat".into())).to_string().contains("concat"));
    assert!(refused(|a| a.beams = Some(0)).to_string().contains("--beams 0"));
    assert!(refused(|a| a.length_penalty = Some(0.5)).to_string().contains("--length-penalty 0.5"));
    assert!(format!("{:?}", refused(|a| a.eval_reader = Some("sequence".into()))).contains("`sequence-fast`"));
    assert!(refused(|a| a.lora_rank = Some(0)).to_string().contains("--lora-rank 0"));
    assert!(refused(|a| a.device = Some("tpu".into())).to_string().contains("`tpu`"));
    assert!(refused(|a| a.schedule = Some("wavy".into())).find_hint().is_some());
    let error = refused(|a| a.dropout = Some("1.5".into()));
    assert!(format!("{error:?}").contains("`1.5`"), "{error:?}");
    assert!(refused(|a| (a.lora_rank, a.lora_dropout) = (Some(4), Some(1.0))).to_string().contains("--lora-dropout 1"));
    assert!(refused(|a| a.lora_dropout = Some(0.1)).find_hint().unwrap().contains("--lora-rank"));
    assert!(refused(|a| a.rslora = Some(true)).to_string().contains("--rslora"));
    assert!(
        refused(|a| {
            a.strategy = Some("generator".into());
            a.train_passages = Some(true);
        })
        .to_string()
        .contains("contradicts")
    );
}
