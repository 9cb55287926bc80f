//! Starts the operator.

/// Objects are parsed and dropped by the thousand: this allocator gives the memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    kthena_controller_manager::run::main()
}
