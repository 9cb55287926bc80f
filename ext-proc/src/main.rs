//! Starts the picker.

fn main() -> std::process::ExitCode {
    kthena_ext_proc::run::main()
}
