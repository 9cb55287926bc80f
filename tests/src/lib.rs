//! The proving ground's harness.
