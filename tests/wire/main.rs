//! The endpoint-picker protocol over real gRPC on loopback: what the transport can spoil.

mod bodies;
mod deadlines;
mod endpoints;
mod envoy;
mod feedback;
mod messages;
mod modes;
mod orders;
mod pairs;
mod picker;
mod refusals;
mod repetition;
mod steering;
mod tokens;
mod which_pool;
