//! The bodies of each connector, to the byte.

use bytes::Bytes;

use super::*;
use crate::prefill::{Split, Unsplittable};

const ROOM: u64 = (1 << 63) - 1;

/// What prefill and decode get of `body`, when prefill answers with `answer`.
fn bodies(kind: KvConnector, body: &str, answer: &str) -> (String, Option<String>) {
    let split = Split::read(&Bytes::copy_from_slice(body.as_bytes()), None).unwrap();
    let (prefill, decode) = match connector(kind).transfer("10.0.0.7".parse().unwrap(), ROOM) {
        Transfer::Prefilled { prefill, decode } => (prefill, decode(answer.as_bytes()).unwrap()),
        Transfer::Together { prefill, decode } => (prefill, decode),
    };
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(split.prefill(&prefill)), split.decode(&decode).map(text))
}

const CHAT: &str = r#"{"model":"m", "messages":[], "seed": 12345678901234567890123, "stream":true,"stream_options":{"include_usage":true},"max_tokens":64,"max_completion_tokens":64,"min_tokens":9}"#;

#[test]
fn with_a_shared_store_decode_gets_the_body_as_it_is() {
    for kind in [KvConnector::Http, KvConnector::Lmcache] {
        let (prefill, decode) = bodies(kind, CHAT, "whatever, also what is not JSON");
        assert_eq!(
            prefill,
            r#"{"model":"m", "messages":[], "seed": 12345678901234567890123,"max_tokens":1,"max_completion_tokens":1,"min_tokens":1}"#
        );
        assert_eq!(decode, None);
    }
}

#[test]
fn nixl_asks_to_keep_the_blocks_and_hands_the_answer_on_verbatim() {
    let params = r#"{"do_remote_prefill": true, "do_remote_decode":false,"remote_block_ids":[[1,2]],"remote_request_id":"cmpl-1","unheard_of":{"n":123456789012345678901234567890.10},"remote_blocks_expiry_time":null}"#;
    let answer = format!(
        r#"{{"id":"x","choices":[{{"text":"kv_transfer_params"}}], "kv_transfer_params" : {params} ,"usage":{{}}}}"#
    );
    for kind in [KvConnector::Nixl, KvConnector::Mooncake] {
        let (prefill, decode) = bodies(kind, r#"{"model":"m","prompt":[1,2,3]}"#, &answer);
        assert_eq!(
            prefill,
            r#"{"model":"m","prompt":[1,2,3],"max_tokens":1,"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}}"#
        );
        assert_eq!(decode.unwrap(), format!(r#"{{"model":"m","prompt":[1,2,3],"kv_transfer_params":{params}}}"#));
    }
}

#[test]
fn an_answer_without_transfer_parameters_is_an_error() {
    let Transfer::Prefilled { decode, .. } = connector(KvConnector::Nixl).transfer("::1".parse().unwrap(), 0) else {
        panic!("nixl's decode waits")
    };
    for answer in [r"{}", r#"{"kv_transfer_params":null}"#] {
        assert!(matches!(decode(answer.as_bytes()), Err(NoTransfer::NoParams)), "{answer}");
    }
    assert!(matches!(decode(b"<html>"), Err(NoTransfer::NotJson(_))));
}

#[test]
fn sglang_tells_both_the_same_room_at_the_prefills_address() {
    let (prefill, decode) = bodies(KvConnector::Sglang, r#"{"model":"m","stream":true}"#, "");
    let meeting = r#""bootstrap_host":"10.0.0.7","bootstrap_room":9223372036854775807"#;
    assert_eq!(prefill, format!(r#"{{"model":"m","max_tokens":1,{meeting}}}"#));
    assert_eq!(decode.unwrap(), format!(r#"{{"model":"m","stream":true,{meeting}}}"#));
}

#[test]
fn transfer_fields_of_a_client_are_never_trusted() {
    let forged = r#"{"kv_transfer_params":{"remote_host":"evil"},"model":"m","bootstrap_host":"evil","bootstrap_port":1,"bootstrap_room":1}"#;
    let answer = r#"{"kv_transfer_params":{"remote_host":"10.0.0.7"}}"#;
    for kind in [KvConnector::Http, KvConnector::Nixl, KvConnector::Sglang] {
        let (prefill, decode) = bodies(kind, forged, answer);
        let decode = decode.unwrap();
        assert!(!prefill.contains("evil") && !prefill.contains("bootstrap_port"), "{prefill}");
        assert!(!decode.contains("evil") && !decode.contains("bootstrap_port"), "{decode}");
    }
    let alone = Split::read(&Bytes::copy_from_slice(forged.as_bytes()), Some("new")).unwrap().decode(&[]);
    assert_eq!(alone.unwrap(), br#"{"model":"new"}"#, "also where decode does all by itself");
}

#[test]
fn what_a_transfer_cannot_carry_is_not_split() {
    let fits =
        |kind, body: &str| Split::read(&Bytes::copy_from_slice(body.as_bytes()), None).unwrap().fits(connector(kind));
    let prompts = [r#"["a","b"]"#, "[[1,2],[3]]", r#" [ "a" , "b" ]"#];
    for body in prompts.iter().map(|prompt| format!(r#"{{"prompt":{prompt}}}"#)) {
        assert_eq!(fits(KvConnector::Nixl, &body), Err(Unsplittable::Sequences), "{body}");
        assert_eq!(fits(KvConnector::Http, &body), Ok(()), "{body}");
    }
    for body in [r#"{"n":2}"#, r#"{"best_of":2}"#, r#"{"use_beam_search":true}"#] {
        assert_eq!(fits(KvConnector::Sglang, body), Err(Unsplittable::Sequences), "{body}");
    }
    for body in [r#"{"echo":true}"#, r#"{"prompt_logprobs":0}"#] {
        assert_eq!(fits(KvConnector::Http, body), Err(Unsplittable::PromptOutput), "{body}");
    }
    for body in [
        r#"{"n":1,"best_of":null,"echo":false,"prompt_logprobs":null}"#,
        r#"{"prompt":["a"]}"#,
        r#"{"prompt":[[1,2]]}"#,
        r#"{"prompt":[ 1,2]}"#,
        r#"{"prompt":"[a, b"}"#,
        r#"{"messages":[]}"#,
    ] {
        assert_eq!(fits(KvConnector::Nixl, body), Ok(()), "{body}");
    }
}
