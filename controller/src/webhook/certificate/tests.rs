use std::time::Duration;

use jiff::Timestamp;

use super::{Material, Verdict};

const NAME: &str = "webhook.kthena-system.svc";

fn day(number: u64) -> Timestamp {
    "2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(number * 24 * 60 * 60)
}

fn make(now: Timestamp, before: Option<&Material>) -> Material {
    Material::make(&[NAME.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()], now, before).unwrap()
}

#[test]
fn a_made_certificate_is_believed_under_its_names_alone() {
    let made = make(day(0), None);
    for name in [NAME, "localhost", "127.0.0.1"] {
        assert!(matches!(made.judge(name, day(0)), Verdict::Good), "{name}");
    }
    assert!(matches!(made.judge("webhook.other.svc", day(0)), Verdict::Useless(_)));
}

#[test]
fn it_is_renewed_three_months_before_its_end() {
    let made = make(day(0), None);
    assert!(matches!(made.judge(NAME, day(270)), Verdict::Good));
    assert!(matches!(made.judge(NAME, day(280)), Verdict::Renew));
    assert!(matches!(made.judge(NAME, day(370)), Verdict::Useless(_)));
}

#[test]
fn a_clock_that_is_an_hour_behind_believes_it() {
    let early = day(0) - Duration::from_secs(60 * 60);
    assert!(matches!(make(day(0), None).judge(NAME, early), Verdict::Good));
}

#[test]
fn the_certificate_before_is_believed_until_the_renewal_after_the_next() {
    let first = make(day(0), None);
    let second = make(day(10), Some(&first));
    let third = make(day(20), Some(&second));
    let told = |shown: &Material, authorities: &Material| {
        Material { authorities: authorities.authorities.clone(), ..shown.clone() }.judge(NAME, day(20))
    };
    assert!(matches!(told(&first, &second), Verdict::Good));
    assert!(matches!(told(&second, &third), Verdict::Good));
    assert!(matches!(told(&third, &third), Verdict::Good));
    assert!(matches!(told(&first, &third), Verdict::Useless(_)), "the list of authorities must not grow for ever");
    assert!(matches!(told(&third, &second), Verdict::Useless(_)), "nobody may show what was not announced");
}

#[test]
fn what_does_not_belong_together_is_useless() {
    let (one, other) = (make(day(0), None), make(day(0), None));
    let mixed = Material { key: other.key.clone(), ..one.clone() };
    assert!(matches!(mixed.judge(NAME, day(0)), Verdict::Useless(_)));
    let broken = Material { certificate: b"none".to_vec(), ..one };
    assert!(matches!(broken.judge(NAME, day(0)), Verdict::Useless(_)));
}

#[test]
fn a_foreign_certificate_without_an_authority_is_served_as_it_is() {
    let foreign = Material { authorities: Vec::new(), ..make(day(0), None) };
    assert!(matches!(foreign.judge("another.name", day(1000)), Verdict::Good));
}
