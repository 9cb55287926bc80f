//! The process seen from its ports: listeners, certificates, health, files, scrapes, and its end.

mod collector;
mod connection;
mod debug_port;
mod doctor;
mod drain;
mod examples;
mod explain;
mod files;
mod health;
mod kv_callers;
mod kv_events;
mod listeners;
mod running;
mod scrapes;
