//! The operator against a real API server.

mod admission;
mod availability;
mod crash;
mod faults;
mod gangs;
mod kinds;
mod kubelet;
mod lifecycle;
mod operator;
mod partition;
mod picker;
mod proxy;
mod recovery;
mod roles;
mod rollout;
mod scaling;
mod stage;
mod webhook;
