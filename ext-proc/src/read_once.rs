//! A large body that the step before the route has read is not read again by the pick of the same request.
//!
//! The step keeps what it read, and says a token of chance in a header; the pick takes what goes by the token, and the
//! header ends there. No client can guess a token, and each is good once. A filter between the two may have changed
//! the body: [`Detached::fits`] says what is asked of it then.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use rand::Rng;

use crate::openai::Detached;

/// The header with the token, 32 hexadecimal digits.
pub const TOKEN: &str = "x-kthena-body-read";

/// Bytes of a body from which on it is handed over. To read takes some 36,000 instructions at 128 KB, in proportion to the
/// size; to hand over takes a token, a table and a header twice, some thousands whatever the size.
pub const WORTH: usize = 16 << 10;

/// What nobody took is dropped when this old, at the next body that is kept.
const AGE: Duration = Duration::from_secs(10);

/// Bodies kept at once. There are as many as requests between the two steps, which is microseconds of them.
const CAPACITY: usize = 1024;

/// Bytes kept at once, bodies not among them.
const BYTES: usize = 32 << 20;

/// Hexadecimal digits of a token.
const DIGITS: usize = 32;

/// What the step before the route has read, until the pick takes it. The oldest gives way where there is no room.
#[derive(Debug, Default)]
pub struct ReadBodies {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    read: HashMap<u128, Detached, RandomState>,
    /// Oldest first, also of those that were taken.
    order: VecDeque<(Instant, u128)>,
    bytes: usize,
}

impl ReadBodies {
    /// Keeps what was read of a body; returns its token, or none where it alone is more than there is room for.
    #[must_use]
    pub fn keep(&self, read: Detached, now: Instant) -> Option<String> {
        let bytes = read.bytes();
        if bytes > BYTES {
            return None;
        }
        let token: u128 = rand::rng().random();
        let mut kept = self.kept.lock();
        kept.make_room(bytes, now);
        kept.bytes += bytes;
        kept.read.insert(token, read);
        kept.order.push_back((now, token));
        Some(format!("{token:0DIGITS$x}"))
    }

    /// What goes by `token`, once.
    #[must_use]
    pub fn take(&self, token: &str) -> Option<Detached> {
        // A number may be written in several ways, with fewer zeros or with a sign; a token in one.
        let is_token = token.len() == DIGITS && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        let token = u128::from_str_radix(token, 16).ok().filter(|_| is_token)?;
        self.kept.lock().remove(token)
    }
}

impl Kept {
    fn make_room(&mut self, bytes: usize, now: Instant) {
        while let Some((since, token)) = self.order.front().copied() {
            let full = self.order.len() >= CAPACITY || self.bytes + bytes > BYTES;
            let taken = !self.read.contains_key(&token);
            if !full && !taken && now.saturating_duration_since(since) < AGE {
                return;
            }
            self.order.pop_front();
            self.remove(token);
        }
    }

    fn remove(&mut self, token: u128) -> Option<Detached> {
        let read = self.read.remove(&token)?;
        self.bytes -= read.bytes();
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai;

    fn read(body: &str) -> Detached {
        openai::parse(body.as_bytes()).unwrap().detach(body.as_bytes())
    }

    #[test]
    fn what_was_kept_is_taken_once_and_by_its_token_alone() {
        let bodies = ReadBodies::default();
        let now = Instant::now();
        let [one, two] = ["one", "two"].map(|model| {
            let body = format!(r#"{{"model":"{model}","prompt":"x"}}"#);
            bodies.keep(read(&body), now).unwrap()
        });
        assert_ne!(one, two);
        for guess in ["", "0", "-1", "one", &one[1..], &format!("+{}", &one[1..]), &format!("{one}0")] {
            assert!(bodies.take(guess).is_none(), "{guess}");
        }
        let small = 0x1234;
        bodies.kept.lock().read.insert(small, read(r#"{"model":"small"}"#));
        assert!(bodies.take("1234").is_none() && bodies.take("+1234").is_none());
        assert!(bodies.kept.lock().read.remove(&small).is_some());
        assert!(bodies.take(&two).unwrap().fits(br#"{"model":"two","prompt":"x"}"#));
        assert!(bodies.take(&two).is_none());
        assert!(bodies.take(&one).unwrap().fits(br#"{"model":"one","prompt":"x"}"#));
        assert_eq!(bodies.kept.lock().bytes, 0);
    }

    #[test]
    fn what_nobody_takes_gives_way_to_what_comes_and_to_time() {
        let bodies = ReadBodies::default();
        let now = Instant::now();
        let body = r#"{"model":"m","prompt":"x"}"#;
        let keep = |at| bodies.keep(read(body), at).unwrap();
        let first = keep(now);
        let second = keep(now);
        for _ in 2..=CAPACITY {
            keep(now);
        }
        assert!(bodies.take(&first).is_none(), "the oldest had to go");
        assert!(bodies.take(&second).is_some());
        keep(now + AGE);
        let kept = bodies.kept.lock();
        assert_eq!((kept.read.len(), kept.order.len()), (1, 1));
        assert_eq!(kept.bytes, read(body).bytes());
    }

    #[test]
    fn bytes_are_bounded_whatever_the_bodies_are_made_of() {
        let bodies = ReadBodies::default();
        // Three bytes a piece, and many times that to remember it.
        let many = format!(r#"{{"model":"m","prompt":[{}"a"]}}"#, r#""a","#.repeat(100_000));
        for _ in 0..20 {
            bodies.keep(read(&many), Instant::now()).unwrap();
            assert!(bodies.kept.lock().bytes <= BYTES);
        }
        assert!(read(&many).bytes() > many.len());
        assert!(bodies.kept.lock().read.len() > 1);
    }
}
