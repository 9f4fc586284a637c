//! `synod init` and `synod serve`.

use std::path::Path;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use synod_node::{Settings, logging};

use crate::arguments::Serve;
use crate::failure::Failure;
use crate::output::warn;

/// Overrides the level of the settings.
const LEVEL_VARIABLE: &str = "SYNOD_LOG";

/// Writes the data folder of a new node.
pub(crate) fn init(config: &Path) -> Result<String, Failure> {
    let settings = load(config)?;
    let identity =
        synod_node::init(&settings).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(format!(
        "node {} of cluster {:032x} is ready to serve from {}",
        identity.node.0,
        identity.cluster,
        settings.data_dir.display()
    ))
}

/// Runs one node until SIGINT or SIGTERM.
pub(crate) fn serve(arguments: &Serve) -> Result<(), Failure> {
    if let Some(parent) = arguments.stop_with_parent {
        die_with(parent)?;
    }
    if synod_node::IS_FOR_TESTS {
        warn("this synod was built for tests and is not to serve anybody: run make build");
    }
    let mut settings = load(&arguments.settings.config)?;
    settings.trace_durability.clone_from(&arguments.trace_durability);
    let level = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| settings.log.level.clone());
    let _log = logging::install(&level, settings.log.json)
        .map_err(|error| Failure::usage(error.to_string()))?;
    synod_node::serve(settings).map_err(|error| Failure::failed(error.to_string()))
}

fn load(config: &Path) -> Result<Settings, Failure> {
    Settings::load(config).map_err(|error| Failure::usage(error.to_string()))
}

/// Has the kernel kill this process when its parent ends: a node must not live
/// on unseen when its runner is killed. What is durable is safe from SIGKILL,
/// and a paused process would not act on anything softer.
fn die_with(parent: i32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::failed(format!("cannot follow the parent process: {error}")))?;
    // The parent may have ended before the call above.
    if getppid().map(Pid::as_raw_nonzero).map(std::num::NonZero::get) == Some(parent) {
        Ok(())
    } else {
        Err(Failure::failed("the process that started this node has ended"))
    }
}
