//! Chat templates: the Jinja text a model ships, rendered the way transformers renders it.
//!
//! A template comes with the weights and is as trusted as they are. It sees the messages and nothing else: no files, no
//! includes, and a fixed amount of work.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::files::{parse_json, read_text_if_present};

/// Jinja operations one rendering may take; a template of a thousand messages needs some ten thousand.
const FUEL: u64 = 10_000_000;
const MAX_RECURSION: usize = 64;
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;
const MAX_CONFIG_BYTES: u64 = 8 << 20;
const NAME: &str = "chat_template";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// "system", "user", "assistant" or "tool".
    pub role: String,
    pub content: String,
}

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Parses `template`. The token texts are what the template sees as `bos_token` and `eos_token`; absent ones are empty.
    pub fn new(template: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self, ModelError> {
        if template.len() as u64 > MAX_TEMPLATE_BYTES {
            let problem = format!("{} bytes; accepted are at most {MAX_TEMPLATE_BYTES}", template.len());
            return Err(ModelError::ChatTemplate(problem));
        }
        let mut environment = Environment::new();
        // The settings of transformers' `apply_chat_template`.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        // In Python nothing is to be iterated over in `None`; minijinja takes it for an empty list.
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_template_owned(NAME, without_generation_marks(template)).map_err(failed)?;
        Ok(ChatTemplate {
            environment,
            bos_token: bos_token.unwrap_or_default().to_string(),
            eos_token: eos_token.unwrap_or_default().to_string(),
        })
    }

    /// The prompt for `messages`, each anything with `role` and `content` (such as [`ChatMessage`]).
    /// `add_generation_prompt` opens the assistant's turn. Encode the result without adding special tokens.
    ///
    /// Fails when the template refuses the messages (many want turns to alternate) or uses what is not supported.
    pub fn render<M: Serialize>(
        &self,
        messages: &[M],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let context = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt,
            // As transformers passes them where there are none: many templates ask for `tools is not none`.
            tools => (),
            documents => (),
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
        };
        self.environment.get_template(NAME).and_then(|template| template.render(context)).map_err(failed)
    }
}

/// `template` with the statements `generation` and `endgeneration` turned into a condition that always holds. transformers
/// has them to mark the assistant's words for training; they write nothing, but trim whitespace like any statement.
fn without_generation_marks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, statement) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = statement.find("%}") else {
            rest = statement;
            break;
        };
        let (statement, after) = statement.split_at(end + 2);
        let word = statement.trim_start_matches("{%").trim_end_matches("%}");
        match word.trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&statement.replace("generation", "if true")),
            "endgeneration" => out.push_str(&statement.replace("endgeneration", "endif")),
            _ => out.push_str(statement),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The error with its causes in one line: minijinja keeps "line 3" in the display and the reason in the source.
fn failed(error: Error) -> ModelError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    ModelError::ChatTemplate(text)
}

/// What a folder says about chat.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChatFiles {
    /// Jinja text.
    pub template: Option<String>,
    pub bos_token: Option<String>,
    pub eos_token: Option<String>,
}

impl ChatFiles {
    /// Reads `tokenizer_config.json` and `chat_template.jinja` of `folder`, both optional; the second wins, as in
    /// transformers. Of several named templates the one called "default" is taken.
    pub fn read(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("tokenizer_config.json");
        let config = match read_text_if_present(&path, MAX_CONFIG_BYTES)? {
            Some(json) => parse_json::<TokenizerConfig>(json.as_bytes(), &path)?,
            None => TokenizerConfig::default(),
        };
        let own_file = read_text_if_present(&folder.join("chat_template.jinja"), MAX_TEMPLATE_BYTES)?;
        let in_config = match config.chat_template {
            None => None,
            Some(Templates::One(template)) => Some(template),
            Some(Templates::Named(templates)) => {
                templates.into_iter().find(|named| named.name == "default").map(|named| named.template)
            }
        };
        Ok(ChatFiles {
            template: own_file.or(in_config),
            bos_token: config.bos_token.map(TokenText::into_text),
            eos_token: config.eos_token.map(TokenText::into_text),
        })
    }
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<TokenText>,
    eos_token: Option<TokenText>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// A special token, written as its text or as an `AddedToken` object.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenText {
    Plain(String),
    Added { content: String },
}

impl TokenText {
    fn into_text(self) -> String {
        match self {
            TokenText::Plain(text) | TokenText::Added { content: text } => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<ChatMessage> {
        [("system", " Be brief. "), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye {{ bos_token }}")]
            .map(|(role, content)| ChatMessage { role: role.into(), content: content.into() })
            .to_vec()
    }

    fn render(template: &str) -> Result<String, ModelError> {
        ChatTemplate::new(template, Some("<s>"), Some("</s>"))?.render(&messages(), true)
    }

    /// Llama 2's published template: Python methods, slices, `raise_exception`, whitespace control.
    #[test]
    fn the_llama_2_template_renders_as_in_transformers() {
        let template = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
            {% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}\
            {% set system_message = false %}{% endif %}{% for message in loop_messages %}\
            {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
            {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
            {% if loop.index0 == 0 and system_message != false %}\
            {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
            {% else %}{% set content = message['content'] %}{% endif %}\
            {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
            {% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";
        let expected = "<s>[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\nHi [/INST] Hello </s>\
            <s>[INST] Bye {{ bos_token }} [/INST]";
        assert_eq!(render(template).unwrap(), expected);
        let twice_user = [messages()[1].clone(), messages()[1].clone()];
        let template = ChatTemplate::new(template, None, None).unwrap();
        let error = template.render(&twice_user, false).unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
    }

    #[test]
    fn block_lines_leave_no_blank_lines() {
        let template = "{% for message in messages %}\n  {% if message.role == 'user' %}\n\
            {{ message.content }}\n  {% endif %}\n{% endfor %}\n";
        assert_eq!(render(template).unwrap(), "Hi\nBye {{ bos_token }}\n");
    }

    #[test]
    fn a_template_can_do_bounded_work_only() {
        let loops = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x\
            {% endfor %}{% endfor %}{% endfor %}";
        assert!(render(loops).unwrap_err().to_string().contains("fuel"));
        let recursion = "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}";
        assert!(render(recursion).unwrap_err().to_string().contains("recursion"));
        for escape in
            ["{% include '/etc/passwd' %}", "{% extends 'x' %}", "{% import 'x' as x %}", "{{ open('x') }}"]
        {
            assert!(matches!(render(escape), Err(ModelError::ChatTemplate(_))), "{escape}");
        }
        assert!(render(&" ".repeat(2 << 20)).unwrap_err().to_string().contains("accepted are at most"));
    }

    #[test]
    fn marks_for_training_write_nothing_and_trim_as_statements_do() {
        let template = "{% for m in messages %}{% if m.role == 'assistant' %}a \n{%- generation -%}\n {{ m.content }}\
            {%- endgeneration %}\n.{% endif %}{% endfor %}";
        assert_eq!(render(template).unwrap(), "aHello.");
        assert_eq!(
            render("{% generation %}x{% endgeneration %} {{ 'generation' }}").unwrap(),
            "x generation"
        );
        assert!(render("{% generation").is_err() && render("{% generation %}").is_err());
    }

    /// transformers passes `none`, which is defined.
    #[test]
    fn tools_and_documents_are_none() {
        assert_eq!(render("{{ tools is none }} {{ documents is defined }}").unwrap(), "True True");
        assert_eq!(render("{% if tools %}a{% else %}b{% endif %}").unwrap(), "b");
        let iterable =
            "{{ tools is iterable }} {{ [] is iterable }} {{ 'a' is iterable }} {{ 3 is iterable }}";
        assert_eq!(render(iterable).unwrap(), "False True True False");
    }
}
