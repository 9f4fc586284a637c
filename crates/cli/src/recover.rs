//! `synod recover`: a new cluster out of what one node has left.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use serde::Serialize;
use synod_node::{Findings, Made, RecoverError, Survivor};

use crate::arguments::Recover;
use crate::failure::Failure;
use crate::output::{columns, print, print_json, warn};
use crate::progress::Progress;

/// Digits of the cluster's id that are to be typed.
const DIGITS: usize = 8;

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    found: &'a Findings,
    /// None when nothing was made.
    made: Option<&'a Made>,
}

/// Makes the folder of a new one-node cluster, after the operator has said so.
pub(crate) fn run(arguments: &Recover) -> Result<(), Failure> {
    let to = target(arguments)?;
    let survivor = Survivor::examine(&arguments.data).map_err(failed)?;
    let found = survivor.findings();
    let outcome = confirm(arguments, found, &to).and_then(|()| {
        let mut progress = Progress::new("copied");
        let node = arguments.node_id.unwrap_or(found.node);
        let made = survivor.recover(&to, node, |bytes| progress.set(bytes)).map_err(failed)?;
        progress.end();
        Ok(made)
    });
    if arguments.json {
        print_json(&Report { found, made: outcome.as_ref().ok() })?;
        return outcome.map(drop);
    }
    print(&describe_made(&outcome?))
}

fn failed(error: RecoverError) -> Failure {
    Failure::failed(format!("{error}. Nothing was recovered, and the folder is as it was"))
}

fn target(arguments: &Recover) -> Result<PathBuf, Failure> {
    if let Some(to) = &arguments.to {
        return Ok(to.clone());
    }
    let Some(name) = arguments.data.file_name() else {
        return Err(Failure::usage("say --to, the new data folder"));
    };
    let mut name: OsString = name.to_owned();
    name.push(".recovered");
    Ok(arguments.data.with_file_name(name))
}

/// Tells what is there, and returns if the operator wants what it takes.
fn confirm(arguments: &Recover, found: &Findings, to: &Path) -> Result<(), Failure> {
    let words = words(found);
    let says_all =
        arguments.yes_lose_slots && (found.doubts.is_empty() || arguments.yes_damaged_folder);
    if !arguments.json || !says_all {
        warn(&describe(found, to));
    }
    if says_all {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if arguments.yes_lose_slots || !stdin.is_terminal() {
        let flags = match found.doubts.is_empty() {
            true => "--yes-lose-slots",
            false => "--yes-lose-slots --yes-damaged-folder",
        };
        return Err(Failure::usage(format!(
            "nothing was written: run it on a terminal and type {words:?}, or say {flags}"
        )));
    }
    warn(&format!("Type {words} to make the new cluster:"));
    if is_typed(&mut stdin.lock(), &words)? {
        return Ok(());
    }
    Err(Failure::failed("it was not confirmed, so nothing was written"))
}

/// What is to be typed: of a folder that is in doubt one word more.
fn words(found: &Findings) -> String {
    let digits = found.cluster.get(..DIGITS).unwrap_or(&found.cluster);
    if found.doubts.is_empty() { digits.to_owned() } else { format!("{digits} damaged") }
}

fn is_typed(input: &mut impl BufRead, words: &str) -> Result<bool, Failure> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line.split_whitespace().eq(words.split(' ')))
}

fn describe(found: &Findings, to: &Path) -> String {
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("folder", found.folder.display().to_string());
    row("node", format!("{} of cluster {}", found.node, found.cluster));
    row("voters", found.voters.iter().map(u32::to_string).collect::<Vec<_>>().join(", "));
    row("applied", format!("slots up to {}", found.applied_slot));
    row("known chosen", format!("slots up to {}", found.chosen_slot));
    if found.kept_slot > found.chosen_slot {
        row(
            "accepted",
            format!(
                "slots {} to {}: kept, chosen or not; a write that had no answer may come with \
                 them, and what others chose instead is lost",
                found.chosen_slot + 1,
                found.kept_slot
            ),
        );
    }
    if let (Some(first), Some(last)) = (found.dropped_slots.first(), found.dropped_slots.last()) {
        let count = found.dropped_slots.len();
        row(
            "dropped",
            format!(
                "{count} slots of {first} to {last}: slot {} before them is missing",
                found.first_missing_slot
            ),
        );
    }
    let lost = match found.last_slot >= found.first_missing_slot {
        true => format!(" (up to {} at the least there were some)", found.last_slot),
        false => String::new(),
    };
    row(
        "MAY BE LOST",
        format!(
            "slots from {} on{lost}: what other nodes acknowledged there cannot be known from \
             this folder",
            found.first_missing_slot
        ),
    );
    for doubt in &found.doubts {
        row("IN DOUBT", doubt.clone());
    }
    row("new folder", to.display().to_string());
    columns(&rows)
        + "This is for a cluster of which a majority is lost for good. It makes a new cluster, \
           with this node alone, and leaves this folder as it is. If a majority can be started \
           again, start it instead; never run the old cluster beside the new one."
}

fn describe_made(made: &Made) -> String {
    let Made { folder, cluster, node, alpha, slot, revision, ids_used_upto } = made;
    format!(
        "node {node} of the new cluster {cluster} is ready to serve, at revision {revision} and \
         slot {slot}.\n\
         In its settings write\n\n    \
         node_id = {node}\n    data_dir = {folder:?}\n\n    \
         [cluster]\n    id = \"{cluster}\"\n    alpha = {alpha}\n\n\
         without quorums, and leave of the [[members]] only that with id = {node}. Then run\n\n    \
         synod serve --config FILE\n\n\
         and add the other nodes one after the other, on empty folders and with ids above \
         {ids_used_upto}, with `synod member add`. What was a node of the old cluster must not come \
         back under its id: the old folders belong to that one, so keep them, and do not start them."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(doubts: &[&str]) -> Findings {
        Findings {
            folder: "/srv/data".into(),
            cluster: "0123456789abcdef0123456789abcdef".to_owned(),
            node: 2,
            voters: vec![1, 2, 3],
            alpha: 1024,
            applied_slot: 5,
            chosen_slot: 7,
            kept_slot: 9,
            first_missing_slot: 10,
            dropped_slots: vec![11, 12],
            last_slot: 14,
            doubts: doubts.iter().map(|doubt| (*doubt).to_owned()).collect(),
        }
    }

    #[test]
    fn only_the_words_that_were_asked_for_confirm() {
        let typed = |line: &str, doubts: &[&str]| {
            is_typed(&mut line.as_bytes(), &words(&found(doubts))).expect("readable")
        };
        assert!(typed("01234567\n", &[]) && typed("  01234567  ", &[]));
        assert!(typed("01234567 damaged\n", &["a damaged block"]));
        for wrong in ["", "\n", "y\n", "yes\n", "0123456\n", "012345678\n", "01234567 damaged\n"] {
            assert!(!typed(wrong, &[]), "{wrong:?}");
        }
        assert!(!typed("01234567\n", &["a damaged block"]));
    }

    #[test]
    fn the_next_steps_name_the_ids_that_are_free() {
        let made = Made {
            folder: "/srv/new".into(),
            cluster: "f".repeat(32),
            node: 2,
            alpha: 1024,
            slot: 9,
            revision: 8,
            ids_used_upto: 5,
        };
        let text = describe_made(&made);
        assert!(text.contains("with ids above 5, with `synod member add`"), "{text}");
    }

    #[test]
    fn what_may_be_missing_is_said() {
        let text = describe(&found(&["a damaged block"]), Path::new("/srv/new"));
        for words in [
            "slots up to 7",
            "slots 8 to 9: kept, chosen or not",
            "2 slots of 11 to 12: slot 10 before them",
            "slots from 10 on (up to 14 at the least there were some)",
            "a damaged block",
            "/srv/new",
        ] {
            assert!(text.contains(words), "{words:?} is missing in {text}");
        }
    }
}
