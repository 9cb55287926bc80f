//! Revisions: immutable, content-addressed snapshots of the roles, kept as ControllerRevisions.
