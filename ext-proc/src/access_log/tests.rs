use std::sync::mpsc::{Sender, channel};

use super::*;

fn line() -> Line {
    Line {
        time: SystemTime::UNIX_EPOCH,
        method: "POST".into(),
        path: "/v1/chat/completions".into(),
        status: Some(200),
        error: None,
        model: Some("llama".into()),
        model_route: Some("ns/route".into()),
        model_server: Some("ns/server".into()),
        selected_pod: Some("ns/pod-1".into()),
        endpoint: Some("10.0.0.1:8000".parse().unwrap()),
        request_id: "id-1".into(),
        pool: "ns/pool".into(),
        tokens: Some((10, 20)),
        request: Duration::from_millis(2),
        upstream: Duration::from_millis(30),
        response: Duration::from_millis(400),
    }
}

#[test]
fn the_text_line_has_kthenas_fields_in_kthenas_order() {
    assert_eq!(
        line().format(Format::Text),
        "[1970-01-01T00:00:00.000000000Z] \"POST /v1/chat/completions -\" 200 model_name=llama model_route=ns/route \
         model_server=ns/server selected_pod=ns/pod-1 request_id=id-1 inference_pool=ns/pool tokens=10/20 \
         timings=432ms(2+30+400)"
    );
}

#[test]
fn the_json_line_has_kthenas_keys() {
    let error = Some(("scheduling", "nobody".to_owned()));
    let text = Line { error, tokens: None, status: None, ..line() }.format(Format::Json);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["timestamp"], "1970-01-01T00:00:00.000000000Z");
    assert_eq!(value["error"], serde_json::json!({"type": "scheduling", "message": "nobody"}));
    assert_eq!((&value["status_code"], &value["duration_total"]), (&0.into(), &432.into()));
    assert_eq!(value["selected_pod"], "ns/pod-1");
    assert_eq!(value.get("input_tokens"), None);
}

#[test]
fn a_client_cannot_forge_a_line_or_a_field() {
    let text =
        Line { path: "/a\n[x] \"b".into(), model: Some("m selected_pod=evil".into()), ..line() }.format(Format::Text);
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains("\"POST /a\\n[x]\\x20\\\"b -\""), "{text}");
    assert!(text.contains("model_name=m\\x20selected_pod=evil"), "{text}");
}

#[test]
fn the_variables_are_kthenas() {
    let read = |variables: &[(&str, &str)]| {
        let mut warnings = Vec::new();
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        (Settings::read(&variable, &mut warnings), warnings.len())
    };
    let default = Settings { enabled: true, format: Format::Text, output: Output::Stdout };
    assert_eq!(read(&[]), (default.clone(), 0));
    let (settings, _) =
        read(&[("ACCESS_LOG_ENABLED", "false"), ("ACCESS_LOG_FORMAT", "json"), ("ACCESS_LOG_OUTPUT", "/x/y")]);
    assert_eq!(settings, Settings { enabled: false, format: Format::Json, output: Output::File("/x/y".into()) });
    assert_eq!(read(&[("ACCESS_LOG_ENABLED", "maybe"), ("ACCESS_LOG_FORMAT", "xml")]), (default, 2));
}

/// Gives away what is written.
struct Told(Sender<Vec<u8>>);

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn all_lines_are_written_by_the_flush() {
    let (sender, written) = channel();
    let log = AccessLog::writing_to(Box::new(Told(sender)), Format::Json, Counter::default()).unwrap();
    for _ in 0..100 {
        log.write(line());
    }
    assert!(log.flush(Duration::from_secs(10)));
    let bytes: Vec<u8> = written.try_iter().flatten().collect();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 100);
}

/// Writes nothing until its gate is dropped.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_is_stuck_drops_lines_and_delays_nobody() {
    let (gate, stuck) = channel();
    let dropped = Counter::default();
    let log = AccessLog::writing_to(Box::new(Stuck(stuck)), Format::Text, dropped.clone()).unwrap();
    // More than the queue and the writer's buffer hold.
    for _ in 0..2 * QUEUE {
        log.write(line());
    }
    assert!(dropped.get() > 0);
    assert!(!log.flush(Duration::from_millis(1)));
    drop(gate);
}
