//! `make proof` passes only when all that it was asked for was done and checked. Here
//! it runs a program that only says what a run would say.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use support::cluster::{folder, output_of};

const PATIENCE: Duration = Duration::from_secs(60);

/// Stands for `synod`, whose results have one line for each number: a round has more than
/// it must, so that each count can be made one too low.
const STANDS_IN: &str = r#"#!/bin/sh
fault() { i=0; while [ $i -lt "$2" ]; do echo "\"class\": \"$1\","; i=$((i + 1)); done; }
if [ "$1" = sim ]; then
    echo "\"seeds_run\": ${RAN:-5},"; echo "\"operations\": ${SIMULATED:-900},"
    exit "${SIM_ENDS:-0}"
fi
echo "\"checked\": ${CHECKED:-700},"
backups=0 recovered=0
[ -n "${UNSAID:-}" ] || echo "\"keys_undecided\": ${UNDECIDED:-0},"
case "$*" in
    *kill,pause*)
        fault kill "${KILLS:-20}"; fault pause "${PAUSES:-20}"
        fault partition "${PARTITIONS:-20}" ;;
    *member,damage,backup*) fault member "${MEMBERS:-8}"; fault damage "${DAMAGES:-8}"
        backups="${BACKUPS:-8}" ;;
    *upgrade*) fault kill 8; fault member 8; fault upgrade "${UPGRADES:-8}" ;;
    *drift*) fault drift "${DRIFTS:-6}" ;;
    *recover*) fault kill 8; fault recover 8; recovered="${SURVIVORS:-8}" ;;
    *stall,disk*) fault kill 4; fault stall "${STALLS:-4}"; fault disk "${FULL:-4}" ;;
    *stall*) fault kill 4; fault stall 4 ;;
    *disk*) fault kill 4; fault disk 4 ;;
    *) fault kill 10 ;;
esac
echo "\"backups_checked\": $backups,"; echo "\"recovered_checked\": $recovered,"
exit "${CHAOS_ENDS:-0}"
"#;

/// What `.ci/proof` says, with these variables.
fn proof(variables: &[(&str, &str)]) -> Output {
    let folder = folder();
    let program = folder.path().join("synod");
    fs::write(&program, STANDS_IN).expect("a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/proof");
    let mut command = Command::new(script);
    command
        .env("SYNOD", &program)
        .env("SYNOD_NEXT", &program)
        .env("OUT", folder.path().join("out"));
    command
        .env("CAN", "strace mounts loops")
        .env("SEEDS", "5")
        .env("FIRST_SEED", "0")
        .env("ROUNDS", "1");
    output_of(command.envs(variables.iter().copied()), PATIENCE)
}

/// The last word of the ledger's line.
fn result_of(output: &Output) -> String {
    let line = String::from_utf8_lossy(&output.stdout);
    let word = line.trim().trim_end_matches('|').rsplit('|').next().expect("a table's line");
    word.trim().to_owned()
}

#[test]
fn a_long_run_that_did_all_it_was_asked_for_passes() {
    for variables in
        [&[][..], &[("ROUNDS", "2")], &[("ROUNDS", "0")], &[("SEEDS", "0")], &[("CAN", "strace")]]
    {
        let output = proof(variables);
        assert_eq!(result_of(&output), "passed", "{variables:?}: {output:?}");
        assert!(output.status.success());
    }
    let line = proof(&[]);
    let line = String::from_utf8_lossy(&line.stdout);
    assert!(line.contains("| 0..5 | 900 simulated, 4900 real | 50 kills, 20 pauses"), "{line}");
}

#[test]
fn a_long_run_that_did_less_fails_and_says_what_is_missing() {
    for (variables, why) in [
        (&[("SEEDS", "0"), ("ROUNDS", "0")][..], "nothing was to be done"),
        (&[("SIM_ENDS", "1")], "the simulation failed"),
        (&[("RAN", "4")], "4 seeds, asked for 5"),
        (&[("SIMULATED", "0")], "0 operations simulated"),
        (&[("CHAOS_ENDS", "1")], "chaos-1-all failed"),
        (&[("CHECKED", "0")], "0 operations checked in chaos-1-all"),
        (&[("KILLS", "19")], "49 kills, asked for 50"),
        (&[("PAUSES", "19")], "19 pauses, asked for 20"),
        (&[("PARTITIONS", "19")], "19 partitions, asked for 20"),
        (&[("MEMBERS", "7")], "15 changes of the members, asked for 16"),
        (&[("DAMAGES", "7")], "7 damaged nodes, asked for 8"),
        (&[("BACKUPS", "7")], "7 restored backups, asked for 8"),
        (&[("UPGRADES", "7")], "7 changes of releases, asked for 8"),
        (&[("DRIFTS", "5")], "5 drifts, asked for 6"),
        (&[("SURVIVORS", "7")], "7 survivors recovered, asked for 8"),
        (&[("STALLS", "3")], "3 stalled disks, asked for 4"),
        (&[("FULL", "3")], "3 full disks, asked for 4"),
        (&[("UNDECIDED", "1")], "7 undecided keys"),
        (&[("UNSAID", "1")], "chaos-1-all does not say which keys were checked"),
    ] {
        let output = proof(variables);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(why), "{variables:?}: {errors}");
        assert_eq!(result_of(&output), "FAILED", "{variables:?}");
        assert!(!output.status.success());
    }
    assert_eq!(proof(&[("SEEDS", "many")]).status.code(), Some(2));
    assert_eq!(proof(&[("SYNOD_NEXT", "/nowhere/synod")]).status.code(), Some(2));
}
