//! Gangs and network topology, decided by the real Volcano scheduler on nodes without machines.

mod gangs;
mod stage;
mod topology;
