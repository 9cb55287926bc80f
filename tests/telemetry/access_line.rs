//! The access log has one line for a request, however many streams ask about it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use kthena_ext_proc::access_log::{AccessLog, Format};
use kthena_ext_proc::observer::{BodyMode, Observer};
use parking_lot::Mutex;
use tonic::metadata::MetadataMap;

use crate::exchange::{RequestHeaders, Told, decision, pool};

#[derive(Clone, Debug, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_that_repeats_a_request_writes_no_line() {
    let told = Told::new(&[]);
    let written = Written::default();
    let log = AccessLog::writing_to(Box::new(written.clone()), Format::Text, told.counters.access_log_dropped.clone())
        .unwrap();
    let observer = Observer::new(Arc::clone(&told.metrics), Arc::clone(&told.recent), Some(log.clone()), None);
    for repeated in [false, true, true] {
        let mut exchange = observer.stream_opened(&MetadataMap::new());
        exchange.request(&pool(), "req-1", &RequestHeaders::chat(), BodyMode::Buffered);
        exchange.decided(Ok(&decision()), repeated);
        exchange.answered();
        exchange.response(Some(200), None);
    }
    assert!(log.flush(Duration::from_secs(5)));
    let text = String::from_utf8(written.0.lock().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("request_id=req-1"), "{text}");
}
