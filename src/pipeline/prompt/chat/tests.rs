use std::fs;

use serde_json::json;

use super::*;

fn golden() -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden/generator_chat.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn chat(source: &str) -> Result<Chat> {
    Chat::new(&ChatTemplate { source: source.to_owned(), variables: BTreeMap::new(), added: BTreeMap::new() })
}

#[test]
fn conversations_are_rendered_as_transformers_does_it() {
    let golden = golden();
    let mut refused = 0;
    for (name, of_name) in golden["templates"].as_object().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer.json"), of_name["tokenizer"].to_string()).unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), of_name["config"].to_string()).unwrap();
        let chat = Chat::new(&ChatTemplate::of_folder(folder.path()).unwrap().unwrap()).unwrap();
        for conversation in of_name["conversations"].as_array().unwrap() {
            let message = |message: &serde_json::Value| {
                let role = ["system", "user", "assistant"].into_iter().find(|role| message["role"] == *role).unwrap();
                Message::new(role, message["content"].as_str().unwrap())
            };
            let messages: Vec<Message> = conversation["messages"].as_array().unwrap().iter().map(message).collect();
            match conversation["rendered"].as_str() {
                Some(expected) => assert_eq!(chat.render(&messages, true).unwrap(), expected, "{name}"),
                None => {
                    refused += 1;
                    let error = chat.render(&messages, true).unwrap_err();
                    let cause = std::error::Error::source(&error).unwrap().to_string();
                    assert!(cause.contains("System role not supported"), "{name}: {cause}");
                }
            }
        }
    }
    assert_eq!(refused, 1, "Gemma's template refuses a system text");
}

#[test]
fn a_file_of_its_own_comes_before_the_tokenizer_s_settings() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
    let source = || ChatTemplate::of_folder(folder.path()).unwrap().map(|template| template.source);
    assert_eq!(source(), None);
    write("tokenizer_config.json", r#"{"chat_template": null}"#);
    assert_eq!(source(), None);
    let several =
        json!({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]});
    write("tokenizer_config.json", &several.to_string());
    assert_eq!(source().as_deref(), Some("D"));
    write("chat_template.jinja", "J");
    assert_eq!(source().as_deref(), Some("J"));
    fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    write("tokenizer_config.json", r#"{"chat_template": [{"name": "tool_use", "template": "T"}]}"#);
    let error = ChatTemplate::of_folder(folder.path()).unwrap_err();
    assert!(error.to_string().contains("tool_use") && error.find_hint().is_some(), "{error}");
}

#[test]
fn special_tokens_have_their_names_in_either_form() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"chat_template": "x", "bos_token": {"content": "<s>"}, "eos_token": null});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let older = json!({"bos_token": "old", "eos_token": "</s>", "additional_special_tokens": ["<a>"]});
    fs::write(folder.path().join("special_tokens_map.json"), older.to_string()).unwrap();
    let template = ChatTemplate::of_folder(folder.path()).unwrap().unwrap();
    let found: Vec<(&str, &str)> = template.variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(found, [("bos_token", "<s>"), ("eos_token", "</s>")]);
}

#[test]
fn a_system_text_that_a_template_drops_goes_before_the_user_s() {
    let dropping = "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% endif %}{% endfor %}";
    assert_eq!(chat(dropping).unwrap().prompt("S", "U").unwrap(), "[S\n\nU]");
    assert_eq!(chat(dropping).unwrap().prompt("", "U").unwrap(), "[U]");
    let keeping = "{% for m in messages %}<{{ m.role }}:{{ m.content }}>{% endfor %}";
    assert_eq!(chat(keeping).unwrap().prompt("S", "U").unwrap(), "<system:S><user:U>");
    assert_eq!(chat(keeping).unwrap().prompt("", "U").unwrap(), "<user:U>");
}

#[test]
fn templates_that_cannot_serve_are_refused() {
    for source in ["{% for %}", "{{ raise_exception('never') }}", "{{ messages[0].content.frobnicate() }}"] {
        let error = chat(source).unwrap_err();
        assert!(error.to_string().contains("chat template"), "{error}");
        assert!(error.find_hint().is_some() && std::error::Error::source(&error).is_some(), "{error}");
    }
}

#[test]
fn generation_tags_leave_the_blanks_around_them_to_the_usual_rules() {
    let tagged = "a\n  {%- generation %}\n  b\n  {% endgeneration -%}\nc {% if x %}generation{% endif %} {{ '{% no' }}";
    let plain = "a\n  {%- if true %}\n  b\n  {% endif -%}\nc {% if x %}generation{% endif %} {{ '{% no' }}";
    assert_eq!(without_generation_tags(tagged), plain);
    assert_eq!(without_generation_tags("no tag {% at the end"), "no tag {% at the end");
}

#[test]
fn dates_do_not_depend_on_the_day() {
    assert_eq!(strftime("%d %b %Y".into()).unwrap(), "26 Jul 2024");
    assert_eq!(strftime("%A, %-d %B %y, %-m/%d 100%%".into()).unwrap(), "Friday, 26 July 24, 7/26 100%");
    assert!(strftime("%Q".into()).unwrap_err().to_string().contains("%Q"));
    assert!(strftime("%".into()).is_err());
}

#[test]
fn json_is_written_as_python_writes_it() {
    let render = |expression: &str| chat(&format!("{{{{ {expression} }}}}")).unwrap().prompt("", "<&é\"").unwrap();
    assert_eq!(render("messages | tojson"), r#"[{"role": "user", "content": "<&é\""}]"#);
    assert_eq!(render("[1, none, true] | tojson(indent=2)"), "[\n  1,\n  null,\n  true\n]");
    assert!(chat("{{ messages | tojson(separators=1) }}").is_err());
}
