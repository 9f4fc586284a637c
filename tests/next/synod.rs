//! The `synod` command as the next version would have it, for tests/upgrade.rs.

fn main() -> std::process::ExitCode {
    synod_cli::main()
}
