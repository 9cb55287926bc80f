//! The picker behind the real Envoy, in the shapes that gateways program.
//!
//! | theme | file |
//! |---|---|
//! | each request-body mode, end to end | `modes.rs` |
//! | Envoy Gateway, AI Gateway, Istio, ours; several pools in one picker | `shapes.rs` |
//! | bodies byte for byte, rewritten and not; headers and trailers | `bodies.rs`, `steering.rs` |
//! | lists, subsets, served endpoints | `endpoints.rs` |
//! | a stand-alone Envoy that knows engines from the picker | `following.rs` |
//! | what clients get when there is no endpoint for them | `refusals.rs` |
//! | the model in a header, before the route is chosen | `model_name.rs` |
//! | engines that are all full | `saturation.rs` |
//! | one request in two streams | `repetition.rs` |
//! | clients that go away, pickers that are down, hang or drain | `failures.rs` |
//! | prefill and decode in pods of their own: what each gets | `pairs.rs` |
//! | prefills that fail, hang or are waited for; clients that leave meanwhile | `broken_pairs.rs` |
//! | prompts that go where engines say their blocks are | `kv_aware.rs` |
//! | one trace over Envoy, picker and engine | `trace.rs` |
//! | configurations, and the harness itself | `config.rs`, `harness.rs` |

mod bodies;
mod broken_pairs;
mod config;
mod endpoints;
mod failures;
mod following;
mod harness;
mod kv_aware;
mod model_name;
mod modes;
mod pair_world;
mod pairs;
mod refusals;
mod repetition;
mod saturation;
mod shapes;
mod steering;
mod trace;
mod world;
