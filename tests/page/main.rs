//! The debug page as a person sees it: a real browser, the real picker behind the real Envoy, simulated engines.
//!
//! | what | file |
//! |---|---|
//! | the browser | `tests/src/browser.rs` |
//! | what every story begins and ends with | `world.rs` |
//! | endpoints, pools, routes, and what is wrong with them | `fleet.rs` |
//! | decisions, and what explains them | `decisions.rs` |
//! | phones, dark and light, what the page loads | `appearance.rs` |
//!
//! `cargo test-page` runs all; it needs Chromium.

mod appearance;
mod decisions;
mod fleet;
mod world;
