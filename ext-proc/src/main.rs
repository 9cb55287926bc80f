//! Starts the picker.

/// An exchange is a few hundred short-lived allocations of the HTTP/2 and protobuf libraries: with
/// this allocator it costs a quarter less than with glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    kthena_ext_proc::run::main()
}
