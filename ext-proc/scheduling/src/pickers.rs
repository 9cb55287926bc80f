//! Who: `max-score` orders the scored candidates.
//!
//! The first is drawn among all that share the highest total; up to four more follow as fallbacks, by
//! total, and equal ones from a random place on, so that a fallback does not always hit the same.

use rand::{Rng, RngCore};

/// Totals closer than this are equal: about the rounding of a weighted sum.
const EQUAL: f32 = 1e-6;
/// The chosen one and its fallbacks, as many as Kthena's `topN`.
const RANKED: usize = 5;

/// Orders `totals`: indices, best first, at most five. Also says how many share the highest total.
pub(crate) fn max_score(totals: &[f32], rng: &mut dyn RngCore) -> (Vec<usize>, usize) {
    let best = totals.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let leads = |total: &f32| best - total <= EQUAL;
    let among = totals.iter().filter(|total| leads(total)).count();
    if among == 0 {
        return (Vec::new(), 0);
    }
    let drawn = if among == 1 { 0 } else { rng.random_range(0..among) };
    let first = totals.iter().enumerate().filter(|(_, total)| leads(total)).nth(drawn).map_or(0, |(index, _)| index);
    let start = if totals.len() == 1 { 0 } else { rng.random_range(0..totals.len()) };
    let (before, after) = totals.split_at_checked(start).unwrap_or((&[], totals));
    let mut ranked: Vec<(usize, f32)> = Vec::with_capacity(RANKED);
    let mut worst = f32::NEG_INFINITY;
    (start..).zip(after).chain((0..).zip(before)).for_each(|(index, total)| {
        if (*total > worst || ranked.len() < RANKED - 1) && index != first {
            let place = ranked.partition_point(|(_, better)| better >= total);
            ranked.truncate(RANKED - 2);
            ranked.insert(place, (index, *total));
            worst = ranked.last().map_or(worst, |(_, total)| *total);
        }
    });
    (std::iter::once(first).chain(ranked.into_iter().map(|(index, _)| index)).collect(), among)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn the_best_comes_first_and_fallbacks_follow_by_total() {
        let mut rng = SmallRng::seed_from_u64(1);
        let (ranked, among) = max_score(&[0.1, 0.9, 0.5, 0.7, 0.3, 0.2, 0.0], &mut rng);
        assert_eq!((ranked, among), (vec![1, 3, 2, 4, 5], 1));
    }

    #[test]
    fn ties_are_spread_evenly_and_name_nobody_twice() {
        let mut rng = SmallRng::seed_from_u64(2);
        let mut firsts = [0; 4];
        for _ in 0..4000 {
            let (ranked, among) = max_score(&[1.0, 0.5, 1.0, 1.0 - 1e-7], &mut rng);
            assert_eq!((among, ranked.len()), (3, 4));
            let mut distinct = ranked.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), 4);
            firsts[ranked[0]] += 1;
        }
        assert_eq!(firsts[1], 0);
        assert!([firsts[0], firsts[2], firsts[3]].iter().all(|count| (1200..1470).contains(count)), "{firsts:?}");
    }

    #[test]
    fn nobody_is_picked_among_none() {
        assert_eq!(max_score(&[], &mut SmallRng::seed_from_u64(3)), (Vec::new(), 0));
    }
}
