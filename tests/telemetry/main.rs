//! What the picker tells of an exchange, seen from outside: at a collector, a scraper, a debugger.

mod access_line;
mod collector;
mod debug_port;
mod exchange;
mod spans;
