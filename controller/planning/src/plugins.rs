//! Steps in the building of a pod, by name.
