//! How long counts are held, how many, and what ends them early.

use scheduling::{Event, Gauges};

use super::*;
use crate::fleet::fixtures::{fleet, in_flight, pick, pool};

const ONE: &str = "10.0.0.1:8000";
const TWO: &str = "10.0.0.2:8000";
const DEFAULT: Duration = Duration::from_secs(5);

fn shared(fleet: &Fleet, address: &str) -> Shared {
    Arc::new(Mutex::new(pick(fleet, address)))
}

fn moment(seconds: u64) -> Moment {
    Moment::after(Duration::from_secs(seconds))
}

/// The engine at `address` says how much it works on, of `then` that we had in flight there.
fn scraped(fleet: &Fleet, address: &str, at: Moment, working: u32, then: u32) {
    let gauges = Gauges {
        read_at: at,
        running: working / 2,
        waiting: working.div_ceil(2),
        in_flight_then: then,
        ..Gauges::default()
    };
    fleet.apply(Event::Scraped { address: address.parse().unwrap(), gauges });
}

#[test]
fn a_count_is_held_for_the_default_until_a_duration_was_seen() {
    let (fleet, holder, now) = (fleet(&[ONE]), Holder::new(DEFAULT, 10), Instant::now());
    holder.hold(shared(&fleet, ONE), now, fleet.now());
    holder.release(now + DEFAULT - Duration::from_millis(1), &fleet.snapshot());
    assert_eq!((holder.len(), in_flight(&fleet)), (1, vec![1]));
    holder.release(now + DEFAULT, &fleet.snapshot());
    assert_eq!((holder.is_empty(), in_flight(&fleet)), (true, vec![0]));
}

#[test]
fn the_estimate_is_a_moving_average_of_the_pools_own_durations() {
    let (fleet, holder, now) = (fleet(&[ONE]), Holder::new(DEFAULT, 10), Instant::now());
    let held_for = |seconds: f64| {
        holder.hold(shared(&fleet, ONE), now, fleet.now());
        let due = now + Duration::from_secs_f64(seconds);
        holder.release(due - Duration::from_millis(1), &fleet.snapshot());
        assert_eq!(holder.len(), 1, "released before {seconds} s");
        holder.release(due + Duration::from_millis(1), &fleet.snapshot());
        assert_eq!(holder.len(), 0, "still held after {seconds} s");
    };
    holder.observe(&PoolName::new("default", "other"), Duration::from_secs(3600));
    held_for(5.0);
    holder.observe(&pool(), Duration::from_secs(10));
    held_for(10.0);
    holder.observe(&pool(), Duration::from_secs(1));
    held_for(10.0 - 9.0 * NEWEST);
    for _ in 0..200 {
        holder.observe(&pool(), Duration::from_secs(1));
    }
    held_for(1.0);
}

#[test]
fn when_too_many_are_held_the_one_that_is_due_next_ends() {
    let (fleet, holder, now) = (fleet(&[ONE, TWO]), Holder::new(DEFAULT, 2), Instant::now());
    holder.hold(shared(&fleet, TWO), now + Duration::from_secs(1), fleet.now());
    holder.hold(shared(&fleet, ONE), now, fleet.now());
    assert_eq!(in_flight(&fleet), [1, 1]);
    holder.hold(shared(&fleet, TWO), now + Duration::from_secs(2), fleet.now());
    assert_eq!((holder.len(), in_flight(&fleet)), (2, vec![0, 2]));
    for _ in 0..100 {
        holder.hold(shared(&fleet, ONE), now + Duration::from_secs(3), fleet.now());
    }
    assert_eq!(holder.len(), 2);
    assert_eq!(in_flight(&fleet).iter().sum::<u32>(), 2);
}

#[test]
fn an_engine_that_has_less_work_than_we_count_ends_the_oldest_once_for_each_scrape() {
    let (fleet, holder, now) = (fleet(&[ONE, TWO]), Holder::new(DEFAULT, 10), Instant::now());
    for (answered, address) in [(0, ONE), (1, ONE), (2, ONE), (0, TWO)] {
        holder.hold(shared(&fleet, address), now + Duration::from_millis(answered), moment(1));
    }
    // As much work as we count disproves nothing.
    scraped(&fleet, ONE, moment(2), 3, 3);
    holder.release(now, &fleet.snapshot());
    assert_eq!(in_flight(&fleet), [3, 1]);
    scraped(&fleet, ONE, moment(3), 1, 3);
    for _ in 0..3 {
        holder.release(now, &fleet.snapshot());
        assert_eq!(in_flight(&fleet), [1, 1], "a scrape is used once, and for its own endpoint");
    }
    scraped(&fleet, ONE, moment(4), 0, 1);
    holder.release(now, &fleet.snapshot());
    assert_eq!(in_flight(&fleet), [0, 1]);
    assert_eq!(holder.len(), 1);
}

#[test]
fn a_scrape_from_before_a_count_says_nothing_about_it() {
    let (fleet, holder, now) = (fleet(&[ONE]), Holder::new(DEFAULT, 10), Instant::now());
    scraped(&fleet, ONE, moment(5), 0, 4);
    holder.hold(shared(&fleet, ONE), now, moment(5));
    holder.release(now, &fleet.snapshot());
    assert_eq!((holder.len(), in_flight(&fleet)), (1, vec![1]));
}

#[tokio::test]
async fn what_is_held_ends_by_itself_while_the_holder_runs() {
    let (fleet, holder, stop) = (fleet(&[ONE]), Holder::new(Duration::ZERO, 10), CancellationToken::new());
    let watched = async {
        holder.hold(shared(&fleet, ONE), Instant::now(), fleet.now());
        while !holder.is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let both = async { tokio::join!(holder.run(&fleet, stop.clone()), watched) };
    tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    assert_eq!(in_flight(&fleet), [0]);
}
