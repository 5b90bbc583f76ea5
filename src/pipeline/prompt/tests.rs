use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

#[test]
fn values_that_look_like_placeholders_are_left_alone() {
    let filled = fill("Context: {title}: {text}\n", &[("{title}", "{text}"), ("{text}", "{title}!")]);
    assert_eq!(filled, "Context: {text}: {title}!\n");
}

#[test]
fn a_template_with_an_unknown_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.json");
    fs::write(&path, r#"{"pasage": "{text}"}"#).unwrap();
    let error = PromptTemplate::read(&path).unwrap_err();
    assert!(error.find_hint().unwrap().contains("passage"));
    fs::write(&path, r#"{"question": "who"}"#).unwrap();
    assert!(PromptTemplate::read(&path).unwrap_err().to_string().contains("{question}"));
}

/// A folder with the tokenizer of a golden conversation, and the golden numbers.
fn conversation(name: &str) -> (tempfile::TempDir, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/generator_chat.json");
    let golden: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let of_name = &golden["templates"][name];
    fs::write(folder.path().join("tokenizer.json"), of_name["tokenizer"].to_string()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), of_name["config"].to_string()).unwrap();
    (folder, golden)
}

fn passages(golden: &Value) -> Vec<Passage> {
    let passage = |pair: &Value| Passage {
        id: pair[0].as_str().unwrap().into(),
        title: pair[0].as_str().unwrap().into(),
        text: pair[1].as_str().unwrap().into(),
    };
    golden["passages"].as_array().unwrap().iter().map(passage).collect()
}

fn decoded(text: &Text, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|id| text.decode(&[*id]).unwrap()).collect()
}

#[test]
fn without_settings_a_folder_with_a_chat_template_gets_a_conversation() {
    for (name, stop) in
        [("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>"), ("gemma", "<end_of_turn>"), ("methods", "</s>")]
    {
        let (folder, golden) = conversation(name);
        let text = Text::load(folder.path()).unwrap();
        let template = PromptTemplate::of_generator(folder.path()).unwrap();
        assert!(template.chat, "{name}");
        let eos = text.token_id(golden["templates"][name]["config"]["eos_token"].as_str().unwrap());
        let bos = golden["templates"][name]["config"]["bos_token"].as_str().and_then(|token| text.token_id(token));
        let prompt = Prompt::new(template, bos, eos).unwrap();
        let all = passages(&golden);
        let all: Vec<&Passage> = all.iter().collect();
        let question = golden["question"].as_str().unwrap();
        let made = prompt.ids(&text, &all, question, 448).unwrap();
        let expected: Vec<u32> = serde_json::from_value(golden["templates"][name]["prompt"].clone()).unwrap();
        assert_eq!((&made.ids, made.truncated), (&expected, false), "{name}: {:?}", decoded(&text, &made.ids));
        assert!(bos.is_none_or(|bos| made.ids.iter().filter(|id| **id == bos).count() == 1), "{name}: begins twice");
        // The answer ends as the template ends the assistant's turn, and so does reading it off.
        let stop = text.token_id(stop).unwrap();
        let answer = prompt.answer_ids(&text, "Shakespeare", 5).unwrap();
        assert_eq!((answer.ids.len(), answer.ids[1]), (2, stop), "{name}");
        assert!(prompt.stop_ids().contains(&stop) && prompt.stop_ids().contains(&eos.unwrap()), "{name}");
        assert!(prompt.stop_ids().len() <= 2 && (prompt.stop_ids().len() == 1) == (eos == Some(stop)), "{name}");
        // Passages are shortened until the whole conversation fits.
        let limit = made.ids.len() - 3;
        let shorter = prompt.ids(&text, &all, question, limit).unwrap();
        assert!(shorter.truncated && shorter.ids.len() <= limit, "{name}");
        assert_eq!(shorter.ids.last(), made.ids.last(), "{name}: the end is the template's");
        let bare = prompt.ids(&text, &[], question, 448).unwrap().ids.len();
        let error = prompt.ids(&text, &all, question, bare - 1).unwrap_err().to_string();
        assert!(error.contains("who wrote hamlet"), "{error}");
    }
}

fn with_settings(name: &str, settings: Value) -> Result<PromptTemplate> {
    let (folder, _) = conversation(name);
    fs::write(folder.path().join("prompt.json"), settings.to_string()).unwrap();
    PromptTemplate::of_generator(folder.path())
}

#[test]
fn settings_choose_between_conversation_and_plain_text() {
    let plain = with_settings("chatml", json!({"passage": "{text} "})).unwrap();
    assert!(!plain.chat && plain.passage == "{text} " && plain.answer_prefix == " ");
    let user = "{question} {passages}";
    let chat = with_settings("chatml", json!({"chat": true, "user": user, "system": "", "eos": false})).unwrap();
    assert_eq!((chat.user.as_deref(), chat.system.as_deref()), (Some(user), Some("")));
    assert!(!chat.eos && !chat.bos && chat.answer_prefix.is_empty());
    let (folder, _) = conversation("chatml");
    let text = Text::load(folder.path()).unwrap();
    let prompt = Prompt::new(chat.clone(), None, Some(1)).unwrap();
    let ids = prompt.ids(&text, &[], "who", 448).unwrap().ids;
    // Without a system text of ours the template writes its own.
    assert!(text.decode(&ids).unwrap().contains("helpful"), "{:?}", text.decode(&ids));
    assert_eq!(prompt.answer_ids(&text, "Rain", 5).unwrap().ids.len(), 1);

    // What is saved with a trained generator reads as it was.
    let saved = folder.path().join("prompt.json");
    for template in [chat, plain, PromptTemplate::default(), PromptTemplate::for_chat()] {
        fs::write(&saved, serde_json::to_vec(&template).unwrap()).unwrap();
        let again = PromptTemplate::of_generator(folder.path()).unwrap();
        assert_eq!(PromptTemplate { conversation: None, ..again }, PromptTemplate { conversation: None, ..template });
    }
}

#[test]
fn the_plain_format_is_what_it_was() {
    let written = serde_json::to_string(&PromptTemplate::default()).unwrap();
    let keys = ["instruction", "passage", "question", "answer_prefix", "bos", "eos", "max_prompt_tokens"];
    let value: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(value.as_object().unwrap().len(), keys.len(), "{written}");
    let places: Vec<usize> = keys.iter().map(|key| written.find(&format!("\"{key}\":")).unwrap()).collect();
    assert!(places.is_sorted(), "{written}");
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/qa-llama");
    assert_eq!(PromptTemplate::of_generator(&path).unwrap(), PromptTemplate::default());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/generator/tied");
    assert_eq!(PromptTemplate::of_generator(&golden).unwrap(), PromptTemplate::default());
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (settings, word) in [
        (json!({"chat": true, "user": "{question}"}), "{passages}"),
        (json!({"chat": true, "question": "{question}"}), "`instruction` or `question`"),
        (json!({"chat": true, "instruction": "Be brief."}), "`instruction` or `question`"),
        (json!({"chat": true, "passage": "{title}"}), "{text}"),
        (json!({"chat": true, "bos": true}), "`bos`"),
        (json!({"system": "Be brief."}), "have `chat`"),
        (json!({"chat": false, "user": "{passages}{question}"}), "have `chat`"),
        (json!({"chat": "yes"}), "not a prompt template"),
        (json!({"chat": true, "sistem": "Be brief."}), "not a prompt template"),
    ] {
        let error = with_settings("chatml", settings.clone()).unwrap_err();
        assert!(error.to_string().contains(word), "{settings}: {error}");
        assert!(error.find_hint().is_some(), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("prompt.json"), r#"{"chat": true}"#).unwrap();
    let error = PromptTemplate::of_generator(folder.path()).unwrap_err();
    assert!(error.to_string().contains("asks for a chat template"), "{error}");
    let unread = Prompt::new(PromptTemplate::for_chat(), Some(1), Some(2)).unwrap_err();
    assert!(unread.to_string().contains("chat template"), "{unread}");
}

#[test]
fn the_tokens_of_each_passage_are_known() {
    // Plain text, with and without a begin-of-sequence token.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/models/qa-llama");
    let text = Text::load(&folder).unwrap();
    let passage = |title: &str, text: &str| Passage { id: title.into(), title: title.into(), text: text.into() };
    // The second stands there twice; the third has words that the first has too.
    let all = [passage("Rain", "It rains in York ."), passage("Sun", "x"), passage("Sun", "x"), passage("", "York .")];
    let all: Vec<&Passage> = all.iter().collect();
    for bos in [true, false] {
        let template = PromptTemplate { bos, instruction: "Read. ".into(), ..PromptTemplate::default() };
        let prompt = Prompt::new(template, Some(1), Some(2)).unwrap();
        let made = prompt.ids(&text, &all, "where does it rain ?", 448).unwrap();
        check_ranges(
            &text,
            &made,
            &["Context: Rain: It rains in York .", "Context: Sun: x", "Context: Sun: x", "York ."],
        );
        assert!(made.passages[0].start > usize::from(bos), "the instruction comes first");
        // What is cut off is not counted, and everything is still in its place.
        let shorter = prompt.ids(&text, &all, "where does it rain ?", made.ids.len() - 2).unwrap();
        assert!(shorter.truncated);
        check_ranges(&text, &shorter, &["Context: Rain: It", "Context: Sun:", "Context: Sun:", "Context"]);
        assert!(prompt.ids(&text, &[], "where ?", 448).unwrap().passages.is_empty());
    }
    // Conversations: whatever stands around.
    for name in ["chatml", "llama3", "gemma"] {
        let (folder, golden) = conversation(name);
        let text = Text::load(folder.path()).unwrap();
        let all = passages(&golden);
        let question = golden["question"].as_str().unwrap();
        for user in ["{passages}Question: {question}", "\n Q: {question}\n{passages}\n"] {
            let template =
                PromptTemplate { user: Some(user.into()), ..PromptTemplate::of_generator(folder.path()).unwrap() };
            let prompt = Prompt::new(template, None, Some(0)).unwrap();
            let made = prompt.ids(&text, &all.iter().collect::<Vec<_>>(), question, 448).unwrap();
            let expected: Vec<&str> = all.iter().map(|passage| passage.text.as_str()).collect();
            check_ranges(&text, &made, &expected);
        }
    }
}

/// Every range holds its text and none a token of another; together with what is left they are the prompt.
fn check_ranges(text: &Text, made: &PromptIds, expected: &[&str]) {
    assert_eq!(made.passages.len(), expected.len());
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    for (range, expected) in made.passages.iter().zip(expected) {
        let found = text.decode(&made.ids[range.clone()]).unwrap();
        assert!(squeezed(&found).contains(&squeezed(expected)), "`{found}` lacks `{expected}`");
    }
    for pair in made.passages.windows(2) {
        assert_eq!(pair[0].end, pair[1].start, "passages follow each other");
    }
    let rest = &made.ids[made.passages.last().unwrap().end..];
    let rest = text.decode(rest).unwrap();
    assert!(!rest.contains("Context"), "`{rest}` is left");
}
