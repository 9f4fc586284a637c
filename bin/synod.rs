//! The `synod` command. Everything it does lives in `crates/cli`.

fn main() -> std::process::ExitCode {
    synod_cli::main()
}
