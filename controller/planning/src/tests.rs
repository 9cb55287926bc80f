//! Objects in, plan out: what a plan does, followed write by write in a world of values.

mod crashes;
mod fixtures;
mod gangs_and_services;
mod golden;
mod random;
mod recovering;
mod revisions;
mod roles_one_by_one;
mod rolling;
mod scaling;
mod telling;
mod world;
