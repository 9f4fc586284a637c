//! `synod inspect`: what a data folder holds.

use synod_node::{Inspection, inspect};

use crate::arguments::Inspect;
use crate::failure::Failure;
use crate::output::{columns, print_bytes, print_json, warn};

/// Prints what is there. Fails when something is damaged.
pub(crate) fn run(arguments: &Inspect) -> Result<(), Failure> {
    let folder = &arguments.data;
    let found = inspect(folder).map_err(|error| {
        Failure::failed(format!("cannot read the data folder {}: {error}", folder.display()))
    })?;
    if arguments.json {
        print_json(&found)?;
    } else {
        print_bytes(columns(&table(&found)).as_bytes())?;
    }
    if found.is_running {
        warn(
            "the node is running, so only its identity is told: ask it with `synod status`, or stop it",
        );
    }
    match found.damage.len() {
        0 => Ok(()),
        1 => Err(Failure::failed(format!("{} is damaged in one way", folder.display()))),
        count => Err(Failure::failed(format!("{} is damaged in {count} ways", folder.display()))),
    }
}

fn table(found: &Inspection) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("folder", found.folder.display().to_string());
    row("running", yes_or_no(found.is_running));
    match &found.identity {
        None if found.is_running => row("identity", "none yet: a command makes it".to_owned()),
        None => row("identity", no_identity(found)),
        Some(identity) => {
            row("node", identity.node.to_string());
            row("cluster", identity.cluster.clone());
            row("store", identity.store.clone());
            if let Some((slot, hash)) = &identity.restored {
                row("restored", format!("at slot {slot}, with the state hash {hash}"));
            }
            row("founded by", nodes(&identity.members));
            if let Some(joined) = identity.joined {
                row("joined", format!("in configuration {joined}"));
            }
            let (promises, accepts) = (identity.promise_quorum, identity.accept_quorum);
            row("quorums", format!("{promises} promises, {accepts} acceptances"));
            row("alpha", identity.alpha.to_string());
        }
    }
    if let Some(journal) = &found.journal {
        row("started", format!("{} times", journal.incarnation));
        row("promised ballot", journal.promised.clone());
        row("truncated slot", journal.truncated_slot.to_string());
        row("chosen slot", journal.chosen_slot.to_string());
        row("last slot", format!("{} ({} open)", journal.last_slot, journal.open_slots));
        row("journal", format!("{} bytes in {} files", journal.bytes, journal.files));
        row("torn tail", yes_or_no(journal.torn_tail));
    }
    if let Some(state) = &found.state {
        row("state", state.folder.display().to_string());
        row("applied slot", state.applied_slot.to_string());
        row("revision", state.revision.to_string());
        row("state hash", state.hash.clone());
        row("keys", format!("{} ({} records)", state.keys, state.records));
        row("state size", format!("{} bytes in {} files", state.bytes, state.files));
        row("voters", nodes(&state.voters));
        if !state.learners.is_empty() {
            row("learners", nodes(&state.learners));
        }
        if let Some(slot) = state.installed_slot {
            row("installed", format!("at slot {slot}; the journal does not say so yet"));
        }
    }
    if let Some(violation) = &found.violation {
        row("must not start", violation.trim().to_owned());
    }
    for mark in &found.marks {
        let words = mark.words.lines().next().filter(|words| !words.is_empty());
        row(&format!("file {}", mark.name), words.unwrap_or("it says nothing more").to_owned());
    }
    if !found.leftovers.is_empty() {
        row("left over", found.leftovers.join(", "));
    }
    for damage in &found.damage {
        row("DAMAGE", damage.clone());
    }
    if found.damage.is_empty() && found.outlook.is_some() {
        row("damage", "none: every checksum fits".to_owned());
    }
    if let Some(outlook) = &found.outlook {
        row("next start", outlook.words.clone());
    }
    rows
}

fn no_identity(found: &Inspection) -> String {
    let damaged = found.damage.iter().any(|damage| damage.contains("identity.json"));
    match &found.unfinished {
        Some(unfinished) => format!("none yet: {unfinished}"),
        None if damaged => "it cannot be read".to_owned(),
        None => "none: no node was made here".to_owned(),
    }
}

/// By their ids.
fn nodes(ids: &[u32]) -> String {
    let list: Vec<String> = ids.iter().map(u32::to_string).collect();
    match ids.len() {
        0 => "not known".to_owned(),
        1 => format!("node {}", list[0]),
        _ => format!("nodes {}", list.join(", ")),
    }
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}
