//! Bodies as clients send them, and as they should not.

use super::*;

fn pieces(body: &str) -> Vec<String> {
    let parsed = parse(body.as_bytes()).unwrap();
    parsed.body.prompt.pieces.iter().map(|piece| String::from_utf8_lossy(piece).into_owned()).collect()
}

fn refusal(body: &str) -> RefusalKind {
    parse(body.as_bytes()).unwrap_err()
}

#[test]
fn the_model_is_read_with_its_place_wherever_it_stands() {
    for body in [r#"{"model":"m","prompt":"p"}"#, r#"{ "prompt" : "p" , "model" : "m" }"#] {
        let parsed = parse(body.as_bytes()).unwrap();
        assert_eq!(parsed.body.model, "m");
        assert_eq!(&body[parsed.model], r#""m""#);
    }
}

#[test]
fn escaped_keys_and_values_mean_what_they_mean_in_json() {
    let body = r#"{"mod\u0065l":"a\/b"}"#;
    let parsed = parse(body.as_bytes()).unwrap();
    assert_eq!(parsed.body.model, "a/b");
    assert_eq!(&body[parsed.model], r#""a\/b""#);
}

#[test]
fn two_models_are_refused_also_in_disguise() {
    assert_eq!(refusal(r#"{"model":"a","model":"a"}"#), RefusalKind::ModelTwice);
    assert_eq!(refusal(r#"{"model":"a","mod\u0065l":"b"}"#), RefusalKind::ModelTwice);
    assert!(parse(br#"{"model":"a","metadata":{"model":"b"}}"#).is_ok());
}

#[test]
fn a_model_must_be_a_non_empty_string() {
    assert_eq!(refusal(r#"{"prompt":"p"}"#), RefusalKind::ModelMissing);
    for model in ["1", "null", "[]", "{}", "true", r#""""#] {
        assert_eq!(refusal(&format!(r#"{{"model":{model}}}"#)), RefusalKind::ModelNotString, "{model}");
    }
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    for body in ["", "{", "[]", "1", r#"{"model":"m"} x"#, r#"{"model":"m",}"#, "{\"model\":\"\u{1}\"}", "null"] {
        assert!(matches!(refusal(body), RefusalKind::BadJson(_)), "{body}");
    }
    assert!(matches!(parse(b"{\"model\":\"\xff\"}"), Err(RefusalKind::BadJson(_))));
}

#[test]
fn a_prompt_that_is_nested_without_end_is_refused() {
    let body = format!(r#"{{"model":"m","prompt":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(refusal(&body), RefusalKind::BadJson(_)));
}

#[test]
fn numbers_of_any_size_and_kind_do_not_fail() {
    let huge = "123456789012345678901234567890e999";
    let body = format!(r#"{{"model":"m","seed":{huge},"max_tokens":{huge},"temperature":-0.0,"x":{{"y":[{huge}]}}}}"#);
    assert_eq!(parse(body.as_bytes()).unwrap().body.max_tokens, None);
}

#[test]
fn the_stream_flag_and_the_newer_token_limit_are_read() {
    let parsed = parse(br#"{"model":"m","stream":true,"max_tokens":5,"max_completion_tokens":7}"#).unwrap();
    assert!(parsed.body.stream);
    assert_eq!(parsed.body.max_tokens, Some(7));
    assert!(!parse(br#"{"model":"m","stream":null}"#).unwrap().body.stream);
}

#[test]
fn a_prompt_is_a_string_strings_or_token_ids() {
    assert_eq!(pieces(r#"{"model":"m","prompt":"one"}"#), ["one"]);
    assert_eq!(pieces(r#"{"model":"m","prompt":["one","two"]}"#), ["one", "two"]);
    let ids = parse(br#"{"model":"m","prompt":[1,258,3]}"#).unwrap();
    assert_eq!(ids.body.prompt.pieces, [&[1, 0, 0, 0, 2, 1, 0, 0, 3, 0, 0, 0][..]]);
    assert_eq!(ids.body.prompt.estimated_tokens(), 3);
    assert_eq!(parse(br#"{"model":"m","prompt":[[1,2],[3]]}"#).unwrap().body.prompt.len(), 12);
}

#[test]
fn messages_give_roles_and_text_in_order() {
    let body = r#"{"model":"m","messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hi"}]}"#;
    assert_eq!(pieces(body), ["system", "be brief", "user", "hi"]);
}

#[test]
fn parts_of_multimodal_messages_are_pieces_too() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":[
        {"type":"text","text":"what is this"},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}},
        {"type":"input_audio","input_audio":{"data":"BBBB","format":"wav"}}]}]}"#;
    let image = r#"{"url":"data:image/png;base64,AAAA"}"#;
    assert_eq!(pieces(body), ["user", "what is this", image, r#"{"data":"BBBB","format":"wav"}"#]);
}

#[test]
fn tools_and_instructions_stand_before_the_messages_as_in_the_engine() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function"}]}"#;
    assert_eq!(pieces(body), [r#"[{"type":"function"}]"#, "user", "hi"]);
    assert_eq!(pieces(r#"{"model":"m","input":"hi","instructions":"be brief"}"#), ["be brief", "hi"]);
}

#[test]
fn tool_calls_belong_to_the_prompt_and_absent_content_does_not_hurt() {
    let body = r#"{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}]}"#;
    assert_eq!(pieces(body), ["assistant", r#"[{"id":"1"}]"#]);
}

#[test]
fn responses_and_embeddings_have_an_input() {
    assert_eq!(pieces(r#"{"model":"m","input":["a","b"]}"#), ["a", "b"]);
    let items = r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}]}"#;
    assert_eq!(pieces(items), ["user", "hi"]);
}

#[test]
fn text_without_escapes_is_borrowed() {
    let parsed = parse(br#"{"model":"m","prompt":["plain","with \"escapes\" \ud83d\ude00"]}"#).unwrap();
    assert!(matches!(parsed.body.model, Cow::Borrowed(_)));
    assert!(matches!(parsed.body.prompt.pieces[0], Cow::Borrowed(_)));
    assert_eq!(parsed.body.prompt.pieces[1], "with \"escapes\" 😀".as_bytes());
}

#[test]
fn only_json_bodies_are_parsed() {
    let yes = [
        "",
        "application/json",
        "APPLICATION/JSON",
        "Application/JSON; charset=utf-8",
        "application/json;charset=\"utf-8\"",
        " application/json ",
        "application/vnd.api+json",
        "application/json, application/json",
        "application/json; charset=utf-8,application/json",
        ", application/json",
        "text/plain, application/json",
    ];
    for yes in yes {
        assert!(is_json([yes]), "{yes:?}");
    }
    for no in ["multipart/form-data; boundary=x", "text/plain", "application/octet-stream", "application/jsonl", "+jso"]
    {
        assert!(!is_json([no]), "{no}");
    }
}

#[test]
fn of_several_content_types_one_is_enough() {
    assert!(is_json([]), "a body of no declared type");
    assert!(is_json(["application/json", "application/json"]));
    assert!(is_json(["text/plain", "Application/JSON"]), "the engine may read the second");
    assert!(!is_json(["text/plain", "audio/wav"]));
    assert!(!is_json(["", "text/plain"]));
}
