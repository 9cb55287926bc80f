//! The body of the picker: edges only. What is decided is decided in `scheduling`.

pub mod fleet;
pub mod observer;
