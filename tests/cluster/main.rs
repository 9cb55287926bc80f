//! The operator against a real API server.

mod admission;
mod attached_routes;
mod attached_servers;
mod attachment;
mod availability;
mod crash;
mod faults;
mod gangs;
mod kinds;
mod kubelet;
mod leader_worker_sets;
mod lifecycle;
mod manifests;
mod operator;
mod partition;
mod picker;
mod proxy;
mod recovery;
mod roles;
mod rollout;
mod rollout_cli;
mod scaling;
mod stage;
mod webhook;
