//! How good: each scorer gives every candidate 0..=1, or says that it has no measure.
