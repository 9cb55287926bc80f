//! The objects that a plan creates, built from a revision's roles.

use controller_api::pod_group::PodGroup;
use k8s_openapi::api::core::v1::Service;

/// A number that differs when anything differs that a plan sets on a headless service.
pub fn service_fingerprint(_service: &Service) -> u64 {
    0
}

/// A number that differs when anything differs that a plan sets on a gang.
pub fn pod_group_fingerprint(_group: &PodGroup) -> u64 {
    0
}
