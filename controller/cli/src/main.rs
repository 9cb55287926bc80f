//! `kthena`.
fn main() {}
