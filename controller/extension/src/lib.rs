//! What makes plain Envoy Gateway understand InferencePools: Envoy's resources in, Envoy's resources out.
//!
//! Envoy Gateway translates an HTTPRoute and leaves a gap where the route names a pool. It asks an extension to fill
//! it, in this order, and all of it is a function of what it says:
//!
//! 1. [`shares::Shares`]: the weights of a rule's backends, read from the cluster's endpoints.
//! 2. [`mark::mark`]: the rule's pools, written into the metadata of its cluster, so that the last step finds them.
//! 3. [`translate::translate`]: the whole of one gateway. A cluster for each pool, whose endpoints come by EDS and
//!    which obeys the picker, or balances by itself where there is none; a cluster for each picker; one `ext_proc`
//!    filter for each pool, off but for the routes of that pool, so that a request meets one picker; weights among
//!    pools; and headers that steer are taken from clients before anything looks at them.
//!
//! [`endpoints`] says what Envoy is told by EDS.
//!
//! What Envoy Gateway says is spliced and not decoded (`fields.rs`): its Envoy may be newer than this build.

mod clusters;
pub mod endpoints;
mod fields;
mod filters;
mod listeners;
pub mod mark;
pub mod pool;
mod routes;
pub mod shares;
pub mod translate;

pub use fields::Malformed;
