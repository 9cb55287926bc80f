//! Starts the picker.

fn main() {}
