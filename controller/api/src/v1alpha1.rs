//! Kthena's kinds, as of its release v0.3.0 and with the fields that later releases add:
//! `networking.serving.volcano.sh/v1alpha1` (routing) and `workload.serving.volcano.sh/v1alpha1`
//! (serving).

pub mod model_route;
pub mod model_server;
pub mod model_serving;
