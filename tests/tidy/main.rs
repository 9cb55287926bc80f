//! The rules of the house. Each is a test that says, when it fails, what to do and why.
//!
//! Nothing is started: the rules read the repository's own files and ask `cargo` for its graph.

mod arrows;
mod dependencies;
mod documents;
mod examples;
mod images;
mod layout;
mod observability;
mod repository;
mod sources;
mod versions;
