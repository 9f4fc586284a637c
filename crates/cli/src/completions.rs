//! `synod completions`: what completes the commands in a shell.

use crate::arguments::{Completions, grammar};
use crate::failure::Failure;
use crate::output::print_bytes;

pub(crate) fn run(arguments: &Completions) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut grammar(), "synod", &mut text);
    print_bytes(&text)
}
