//! Messages and tools as vLLM hands them to the chat template.
//!
//! vLLM does not pass a message on as it came: it keeps the fields that it knows, in an order of its own,
//! joins text parts with newlines where the template wants one text, and reads the arguments of tool
//! calls, which are JSON in a string, into values. Tools have all fields of vLLM's own type, also those
//! that the request leaves out. Order and absence are visible to a template that prints JSON.

use minijinja::Value;
use minijinja::value::ValueKind;

use super::Why;
use super::asked::Chat;
use super::template::Template;

/// A map that keeps its order.
type Fields = Vec<(&'static str, Value)>;

/// The prompt's text.
pub(super) fn render(chat: Chat, template: &Template) -> Result<String, Why> {
    let Chat { messages, tools, mut arguments, add_generation_prompt, continue_final_message, special_tokens: _ } =
        chat;
    let messages =
        messages.iter().map(|message| self::message(message, template.wants_parts())).collect::<Result<Vec<_>, _>>()?;
    let last = messages.last().cloned();
    for name in ["messages", "tools", "chat_template", "tokenize", "return_dict", "conversation"] {
        if arguments.remove(name).is_some() {
            return Err(Why::Unknowable("chat_template_kwargs"));
        }
    }
    let tools = tools.map(|tools| tools.iter().map(tool).collect::<Result<Vec<_>, _>>()).transpose()?;
    arguments.insert("messages".to_owned(), messages.into_iter().collect());
    arguments.insert("tools".to_owned(), tools.map_or_else(|| Value::from(()), |tools| tools.into_iter().collect()));
    arguments.entry("documents".to_owned()).or_insert_with(|| Value::from(()));
    arguments.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
    if continue_final_message && add_generation_prompt {
        return Err(Why::Template("continue_final_message and add_generation_prompt cannot be both".to_owned()));
    }
    let rendered = template.render(arguments).map_err(Why::Template)?;
    if continue_final_message { open_ended(&rendered, last.as_ref()) } else { Ok(rendered) }
}

/// One message.
fn message(message: &Value, wants_parts: bool) -> Result<Value, Why> {
    let role = text(message, "role").ok_or(Why::NoPrompt)?;
    if role == "developer" {
        return Err(Why::Unknowable("messages of a developer"));
    }
    let mut fields: Fields = vec![("role", role.clone().into())];
    let content = message.get_attr("content").unwrap_or_default();
    // Templates that want parts want one text from tools all the same, and vLLM sees to it.
    let in_parts = wants_parts && role != "tool";
    fields.push((
        "content",
        match content.kind() {
            // As it is: most prompts are long texts.
            ValueKind::String if !in_parts => content,
            _ if in_parts => parts(&content)?.iter().map(|part| text_part(part)).collect(),
            _ => parts(&content)?.join("\n").into(),
        },
    ));
    if role == "assistant" {
        let calls = given(message, "tool_calls");
        if let Some(calls) = calls {
            let calls = calls
                .try_iter()
                .map_err(|_| Why::NoPrompt)?
                .map(|call| tool_call(&call))
                .collect::<Result<Vec<_>, _>>()?;
            if !calls.is_empty() {
                fields.push(("tool_calls", calls.into_iter().collect()));
            }
        }
        if let Some(reasoning) = given(message, "reasoning") {
            fields.push(("reasoning", reasoning.clone()));
            fields.push(("reasoning_content", reasoning));
        }
    }
    // Which of the two names counts is a matter of vLLM's version.
    if given(message, "reasoning_content").is_some() {
        return Err(Why::Unknowable("reasoning_content"));
    }
    if role == "tool"
        && let Some(id) = given(message, "tool_call_id")
    {
        fields.push(("tool_call_id", id));
    }
    if let Some(name) = text(message, "name") {
        fields.push(("name", name.into()));
    }
    Ok(map(fields))
}

/// The texts of a content, in order.
fn parts(content: &Value) -> Result<Vec<String>, Why> {
    match content.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(Vec::new()),
        ValueKind::String => Ok(vec![content.as_str().unwrap_or_default().to_owned()]),
        ValueKind::Seq => {
            let mut parts = Vec::new();
            for part in content.try_iter().map_err(|_| Why::NoPrompt)? {
                if let Some(text) = part.as_str() {
                    parts.push(text.to_owned());
                    continue;
                }
                let kind = text(&part, "type").unwrap_or_else(|| "text".to_owned());
                let name = match kind.as_str() {
                    "text" | "input_text" | "output_text" => "text",
                    "refusal" => "refusal",
                    "thinking" => "thinking",
                    _ => return Err(Why::Unknowable("content that is not text")),
                };
                parts.extend(text(&part, name));
            }
            Ok(parts)
        }
        _ => Err(Why::NoPrompt),
    }
}

fn text_part(part: &str) -> Value {
    map(vec![("type", "text".into()), ("text", part.into())])
}

/// One call of a tool in a message of the assistant.
fn tool_call(call: &Value) -> Result<Value, Why> {
    let function = given(call, "function").ok_or(Why::NoPrompt)?;
    let empty = || serde_json::from_str::<Value>("{}").unwrap_or_default();
    let arguments = match given(&function, "arguments") {
        Some(arguments) => match arguments.as_str() {
            Some(json) => serde_json::from_str(json).unwrap_or_else(|_| empty()),
            None if matches!(arguments.kind(), ValueKind::Map | ValueKind::Seq) => arguments,
            None => empty(),
        },
        None => empty(),
    };
    let mut fields: Fields = Vec::new();
    fields.extend(given(call, "id").map(|id| ("id", id)));
    let name = given(&function, "name").unwrap_or_default();
    fields.push(("function", map(vec![("arguments", arguments), ("name", name)])));
    fields.push(("type", given(call, "type").unwrap_or_else(|| "function".into())));
    Ok(map(fields))
}

/// A tool that may be called: vLLM's own fields first, then what else the request has.
fn tool(tool: &Value) -> Result<Value, Why> {
    let function = given(tool, "function").ok_or(Why::Unknowable("tools that are no functions"))?;
    let with_rest = |known: Fields, value: &Value| -> Result<Value, Why> {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let mut all: Vec<(Value, Value)> =
            known.iter().map(|(name, value)| (Value::from(*name), value.clone())).collect();
        for key in value.try_iter().map_err(|_| Why::NoPrompt)? {
            if !key.as_str().is_some_and(|key| names.contains(&key)) {
                let item = value.get_item(&key).unwrap_or_default();
                all.push((key, item));
            }
        }
        Ok(Value::from_pairs(all))
    };
    let or_none = |name: &str| given(&function, name).unwrap_or_else(|| Value::from(()));
    let name = given(&function, "name").ok_or(Why::NoPrompt)?;
    let known = vec![("name", name), ("description", or_none("description")), ("parameters", or_none("parameters"))];
    let function = with_rest(known, &function)?;
    let kind = given(tool, "type").unwrap_or_else(|| "function".into());
    with_rest(vec![("type", kind), ("function", function)], tool)
}

/// The text up to where the last message ends, as transformers cuts it: the answer goes on from there.
fn open_ended(rendered: &str, last: Option<&Value>) -> Result<String, Why> {
    let content = last.and_then(|last| last.get_attr("content").ok()).unwrap_or_default();
    let content = match content.as_str() {
        Some(text) => text.to_owned(),
        None => content
            .try_iter()
            .ok()
            .and_then(|parts| parts.last())
            .and_then(|part| text(&part, "text"))
            .ok_or(Why::Unknowable("continue_final_message"))?,
    };
    let place = rendered.rfind(content.trim()).ok_or(Why::Unknowable("continue_final_message"))?;
    let whole = place + content.trim_start().len();
    let end =
        if rendered.get(place..whole) == Some(content.trim_start()) { whole } else { place + content.trim().len() };
    Ok(rendered.get(..end).unwrap_or_default().to_owned())
}

/// What is there and not null.
fn given(value: &Value, name: &str) -> Option<Value> {
    value.get_attr(name).ok().filter(|value| !value.is_undefined() && !value.is_none())
}

fn text(value: &Value, name: &str) -> Option<String> {
    given(value, name)?.as_str().map(str::to_owned)
}

fn map(fields: Fields) -> Value {
    Value::from_pairs(fields)
}
