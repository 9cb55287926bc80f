//! `networking.serving.volcano.sh/v1alpha1`: Kthena's routing kinds, as of its release v0.3.0.

pub mod model_route;
pub mod model_server;
