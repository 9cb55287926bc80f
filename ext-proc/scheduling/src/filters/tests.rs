//! Laws of every filter in the list, also of the ones that are not written yet.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::fixtures::{Scene, address, seconds, with_prompt};
use crate::{Gauges, Subset as Hint};

fn all() -> Vec<(&'static str, Box<dyn Filter>)> {
    let mut all: Vec<(_, Box<dyn Filter>)> =
        vec![("ready", Box::new(Ready)), ("subset", Box::new(Subset)), ("route", Box::new(Route))];
    all.push(("decode", Box::new(Decode)));
    all.push(("group", Box::new(Group)));
    all.push(("outlier", Box::new(Outlier)));
    all.extend(NAMES.iter().map(|name| (*name, build(name, None).unwrap().unwrap())));
    all
}

proptest! {
    #[test]
    fn filters_only_remove_and_never_by_what_they_were_not_shown(
        waiting in vec(option::of((0_u32..20, option::of(any::<bool>()))), 1..10),
        shown in vec(any::<bool>(), 10),
        hint in option::of(vec(0_usize..10, 0..4)),
    ) {
        let mut scene = Scene::equal(waiting.len());
        for (number, gauges) in waiting.iter().enumerate() {
            if let Some((waiting, lists)) = gauges {
                let models = lists.map(|lists| Arc::from([Arc::from(if lists { "llama" } else { "base" })]));
                scene.scrape(number, Gauges { waiting: *waiting, models, ..Gauges::default() });
            }
        }
        let pool = scene.pool();
        let hint = hint.map(|numbers| Hint { addresses: numbers.into_iter().map(address).collect(), hosts: Vec::new() });
        let before: Vec<usize> = (0..waiting.len()).filter(|index| shown[*index]).collect();
        with_prompt("llama", "", |request| {
            let request = Request { subset: hint.as_ref(), content: crate::Content::Absent, ..*request };
            let candidate = |endpoint| Candidate::new(endpoint, seconds(1), 0);
            let candidates: Vec<_> = pool.endpoints.iter().map(|endpoint| candidate(endpoint)).collect();
            let question = Question {
                request: &request,
                pool: &pool.name,
                model: Some("llama"),
                resolution: None,
                members: None,
                decodes: None,
                group: None,
                candidates: &candidates,
            };
            for (name, filter) in all() {
                let mut kept = before.clone();
                filter.filter(&question, &mut kept);
                let mut left = before.iter();
                prop_assert!(kept.iter().all(|index| left.any(|other| other == index)), "{}: {:?}", name, kept);
                let again = kept.clone();
                filter.filter(&question, &mut kept);
                prop_assert_eq!(&again, &kept, "{} removes more when it is asked again", name);
                for removed in before.iter().filter(|index| !kept.contains(index)) {
                    prop_assert!(!filter.reason(&question, &pool.endpoints[*removed]).is_empty(), "{}", name);
                }
            }
            Ok(())
        })?;
    }
}
