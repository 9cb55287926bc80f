//! What is a repetition, for how long, and how much is remembered.

use super::*;
use crate::fleet::Fleet;
use crate::fleet::fixtures::{fleet, in_flight, pick, pool};

const ONE: &str = "10.0.0.1:8000";
const TTL: Duration = Duration::from_secs(2);

/// Asks for `key`, which is picked for at most once.
fn ask(duplicates: &Duplicates, fleet: &Fleet, key: Key, now: Instant) -> (Shared, bool) {
    duplicates.once(key, now, || Ok(pick(fleet, ONE))).unwrap()
}

fn key(duplicates: &Duplicates, id: &str) -> Key {
    duplicates.key(&pool(), id, "/v1/completions", b"{}")
}

fn remembered(duplicates: &Duplicates) -> (usize, usize) {
    let sizes = duplicates.shards.iter().map(|shard| {
        let shard = shard.lock();
        (shard.entries.len(), shard.order.len())
    });
    sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
}

#[test]
fn each_part_of_a_request_makes_it_another() {
    let duplicates = Duplicates::new(TTL, 100);
    let key =
        |pool: &str, id, path, body: &str| duplicates.key(&PoolName::new("default", pool), id, path, body.as_bytes());
    let first = key("llama", "id", "/v1/completions", "{}");
    assert_eq!(first, key("llama", "id", "/v1/completions", "{}"));
    for other in [
        key("qwen", "id", "/v1/completions", "{}"),
        key("llama", "di", "/v1/completions", "{}"),
        key("llama", "id", "/v1/chat/completions", "{}"),
        key("llama", "id", "/v1/completions", "{ }"),
    ] {
        assert_ne!(first, other);
    }
}

#[test]
fn after_its_stream_a_request_is_remembered_for_the_time_to_live() {
    let (fleet, duplicates, now) = (fleet(&[ONE]), Duplicates::new(TTL, 100), Instant::now());
    let key = key(&duplicates, "id");
    for (after, again) in [(Duration::ZERO, false), (TTL - Duration::from_millis(1), true), (TTL, false)] {
        let (picked, repeated) = ask(&duplicates, &fleet, key, now + after);
        assert_eq!((repeated, in_flight(&fleet)), (again, vec![1]), "after {after:?}");
        drop(picked);
        assert_eq!(in_flight(&fleet), [0]);
    }
}

#[test]
fn of_requests_that_have_ended_the_last_are_remembered() {
    let (fleet, duplicates, now) = (fleet(&[ONE]), Duplicates::new(TTL, 1 << 16), Instant::now());
    let end = |id: &str| {
        let key = key(&duplicates, id);
        drop(ask(&duplicates, &fleet, key, now));
        duplicates.ended(key);
    };
    let living = ask(&duplicates, &fleet, key(&duplicates, "living"), now);
    duplicates.ended(key(&duplicates, "living"));
    end("first");
    assert!(ask(&duplicates, &fleet, key(&duplicates, "first"), now).1);
    for number in 0..4 * SHARDS * ENDED {
        end(&number.to_string());
    }
    assert!(!ask(&duplicates, &fleet, key(&duplicates, "first"), now).1, "many have ended since");
    assert!(ask(&duplicates, &fleet, key(&duplicates, "living"), now).1, "another stream of it lives");
    assert!(remembered(&duplicates).0 <= SHARDS * ENDED + 2);
    drop(living);
}

#[test]
fn a_request_that_comes_again_outlives_the_place_of_its_first_time() {
    let (fleet, duplicates, now) = (fleet(&[ONE]), Duplicates::new(TTL, 100), Instant::now());
    let key = key(&duplicates, "id");
    ask(&duplicates, &fleet, key, now);
    duplicates.forget(key);
    let later = now + TTL - Duration::from_millis(1);
    assert!(!ask(&duplicates, &fleet, key, later).1);
    ask(&duplicates, &fleet, self::key(&duplicates, "another"), now + TTL);
    assert!(ask(&duplicates, &fleet, key, now + TTL).1);
}

#[test]
fn a_request_that_replaces_an_expired_one_expires_too() {
    let (fleet, duplicates, now) = (fleet(&[ONE]), Duplicates::new(TTL, 1 << 16), Instant::now());
    // More of one shard than a sweep looks at, so that the last is still there when it comes again.
    let of_shard = |key: &Key| key.0.is_multiple_of(SHARDS as u64);
    let all: Vec<Key> = (0..).map(|id| key(&duplicates, &id.to_string())).filter(of_shard).take(3 * SWEEP).collect();
    for key in &all {
        drop(ask(&duplicates, &fleet, *key, now));
    }
    let last = all[3 * SWEEP - 1];
    assert!(!ask(&duplicates, &fleet, last, now + TTL).1);
    for _ in 0..all.len() {
        drop(ask(&duplicates, &fleet, all[0], now + 2 * TTL));
        duplicates.forget(all[0]);
    }
    assert_eq!(remembered(&duplicates).0, 0);
}

#[test]
fn while_its_stream_lives_a_request_is_remembered_however_long_it_takes() {
    let (fleet, duplicates, now) = (fleet(&[ONE]), Duplicates::new(TTL, 100), Instant::now());
    let key = key(&duplicates, "id");
    let first = ask(&duplicates, &fleet, key, now);
    for hours in 1..5 {
        let (_again, repeated) = ask(&duplicates, &fleet, key, now + Duration::from_secs(3600 * hours));
        assert!(repeated);
        assert_eq!(in_flight(&fleet), [1], "counted once");
    }
    drop(first);
    assert_eq!(in_flight(&fleet), [0]);
}

#[test]
fn a_request_goes_by_its_changed_body_too() {
    let (fleet, duplicates, now) = (fleet(&[ONE]), Duplicates::new(TTL, 100), Instant::now());
    let (picked, _) = ask(&duplicates, &fleet, key(&duplicates, "id"), now);
    let changed = duplicates.key(&pool(), "id", "/v1/completions", b"{\"model\":\"other\"}");
    duplicates.also(changed, now, &picked);
    let (again, repeated) = ask(&duplicates, &fleet, changed, now);
    assert_eq!((repeated, in_flight(&fleet)), (true, vec![1]));
    drop((picked, again));
    assert_eq!(in_flight(&fleet), [0]);
}

#[test]
fn a_body_that_was_made_is_passed_on_once_and_only_while_its_stream_lives() {
    let (fleet, duplicates, now) = (fleet(&[ONE]), Duplicates::new(TTL, 100), Instant::now());
    let (first, _) = ask(&duplicates, &fleet, key(&duplicates, "id"), now);
    let changed = |body: &[u8]| duplicates.key(&pool(), "id", "/v1/completions", body);
    duplicates.also(changed(b"one"), now, &first);
    duplicates.also(changed(b"two"), now, &first);
    assert!(!duplicates.passed_on(key(&duplicates, "id")), "the client's own body");
    let (next, _) = ask(&duplicates, &fleet, changed(b"one"), now);
    assert!(duplicates.passed_on(changed(b"one")));
    assert!(!duplicates.passed_on(changed(b"one")), "it may be used by now");
    drop((first, next));
    let (_late, repeated) = ask(&duplicates, &fleet, changed(b"two"), now);
    assert!(repeated && !duplicates.passed_on(changed(b"two")));
}

#[test]
fn a_forgotten_request_is_picked_for_anew() {
    let (fleet, duplicates, now) = (fleet(&[ONE]), Duplicates::new(TTL, 100), Instant::now());
    let key = key(&duplicates, "id");
    let _first = ask(&duplicates, &fleet, key, now);
    duplicates.forget(key);
    let (_second, repeated) = ask(&duplicates, &fleet, key, now);
    assert_eq!((repeated, in_flight(&fleet)), (false, vec![2]));
}

#[test]
fn no_more_are_remembered_than_the_capacity_whether_their_streams_live_or_not() {
    let (fleet, now) = (fleet(&[ONE]), Instant::now());
    for keep in [false, true] {
        let duplicates = Duplicates::new(TTL, 4 * SHARDS);
        let mut living = Vec::new();
        for number in 0..2_000 {
            let (picked, _) = ask(&duplicates, &fleet, key(&duplicates, &number.to_string()), now);
            if keep {
                living.push(picked);
            }
            let (entries, order) = remembered(&duplicates);
            assert!(entries <= 4 * SHARDS && order <= 4 * SHARDS, "{entries} entries, {order} in order");
        }
        let newest = key(&duplicates, "1999");
        assert!(ask(&duplicates, &fleet, newest, now).1, "the newest is remembered");
    }
    assert_eq!(in_flight(&fleet), [0]);
}

#[test]
fn what_has_expired_leaves_as_others_come() {
    let (fleet, duplicates, now) = (fleet(&[ONE]), Duplicates::new(TTL, 1 << 16), Instant::now());
    for (round, at) in [(0, now), (1, now + TTL), (2, now + 2 * TTL)] {
        for number in 0..1_000 {
            drop(ask(&duplicates, &fleet, key(&duplicates, &format!("{round} {number}")), at));
        }
        let (entries, order) = remembered(&duplicates);
        assert_eq!((entries, order), (1_000, 1_000), "round {round}");
    }
}
