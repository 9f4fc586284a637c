//! Bugs that others have shipped, put in by hand: each must be found by a test.
//!
//! Every entry names its row in the list of pitfalls, the line that the bug
//! changes, and the test that must fail with it. The crate is copied, changed and
//! tested, so it is the text of production that changes. The simulation searches
//! for many more, as values: docs/simulation.md.

use std::{fs, path::Path, process::Command};

struct Planted {
    pitfall: u32,
    bug: &'static str,
    /// File, what stands there, what the bug makes of it.
    changes: &'static [(&'static str, &'static str, &'static str)],
    found_by: &'static str,
}

const PLANTED: &[Planted] = &[
    Planted {
        pitfall: 4,
        bug: "a restarted node counts its ballots from one again",
        changes: &[(
            "src/replica/voting.rs",
            "let ballot = self.acceptor.promised().max(self.highest_seen).next(self.node);",
            "let ballot = Ballot { round: self.elections + 1, node: self.node };",
        )],
        found_by: "cluster",
    },
    Planted {
        pitfall: 5,
        bug: "accepting does not raise the promise",
        changes: &[(
            "src/acceptor.rs",
            "!self.planted.is(Bug::AcceptDoesNotRaise) && self.raise(ballot)",
            "false",
        )],
        found_by: "cluster",
    },
    Planted {
        pitfall: 8,
        bug: "a new leader takes the first acceptance reported, not the highest",
        changes: &[(
            "src/proposer.rs",
            "let is_higher = known.is_none_or(|known| *standing > known);",
            "let is_higher = known.is_none();",
        )],
        found_by: "cluster",
    },
    Planted {
        pitfall: 10,
        bug: "a follower takes an acceptance of an older ballot for the chosen value",
        changes: &[(
            "src/learner.rs",
            "held == Some(Standing::Accepted(ballot))",
            "matches!(held, Some(Standing::Accepted(_)))",
        )],
        found_by: "cluster",
    },
    Planted {
        pitfall: 16,
        bug: "a new leader does not fill gaps",
        changes: &[
            (
                "src/replica/voting.rs",
                "if !self.skips(&accept.value) {",
                "if accept.value == Value::Noop {\n            return;\n        }\n        {",
            ),
            (
                "src/replica/voting.rs",
                "if to != self.node && reachable && !open.voters.contains(index) && !skips {",
                "if to != self.node && reachable && open.value != Value::Noop {",
            ),
        ],
        found_by: "cluster",
    },
    Planted {
        pitfall: 17,
        bug: "a no-op is put where a value was chosen",
        changes: &[(
            "src/proposer.rs",
            "let base = base.max(preparing.from.prior());",
            "let base = base.min(preparing.from.prior());",
        )],
        found_by: "cluster",
    },
    Planted {
        pitfall: 24,
        bug: "votes are counted by the newest configuration, not by that of their slot",
        changes: &[(
            "src/proposer.rs",
            "false => configurations.governing(slot),",
            "false => &*configurations.newest().configuration,",
        )],
        found_by: "cluster",
    },
    Planted {
        pitfall: 24,
        bug: "the vote of a node counts where it has none",
        changes: &[(
            "src/proposer.rs",
            "let index = governing.index_of(node);",
            "let index = governing.index_of(node).or(Some(30));",
        )],
        found_by: "cluster",
    },
    Planted {
        pitfall: 24,
        bug: "a new leader proposes where it does not know who votes",
        changes: &[("src/replica.rs", "&& leading.proposed_upto() < self.decided_upto()", "")],
        found_by: "cluster",
    },
    Planted {
        pitfall: 19,
        bug: "a range of acknowledged slots covers a hole",
        changes: &[("src/outbox.rs", "&& accepted.first <= range.last.next()\n", "")],
        found_by: "cluster",
    },
];

#[test]
fn each_planted_bug_is_found() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = std::env::temp_dir().join(format!("synod-planted-{}", std::process::id()));
    let mut missed = Vec::new();
    println!("{:>7}  {:<66}  found by", "pitfall", "bug");
    for planted in PLANTED {
        let copy = folder.join("paxos");
        let _ = fs::remove_dir_all(&copy);
        copy_folder(source, &copy);
        make_standalone(&copy);
        for (file, old, new) in planted.changes {
            let path = copy.join(file);
            let text = fs::read_to_string(&path).expect("a file of the crate");
            assert_eq!(text.matches(old).count(), 1, "{file} must contain once: {old}");
            fs::write(&path, text.replace(old, new)).expect("a writable copy");
        }
        let run = Command::new(env!("CARGO"))
            .args(["test", "--test", planted.found_by])
            .current_dir(&copy)
            .env("CARGO_TARGET_DIR", folder.join("target"))
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("cargo runs");
        let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(!text.contains("could not compile"), "{}: {text}", planted.bug);
        let panic = text.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
        match panic.filter(|_| !run.status.success()) {
            Some(message) => {
                let message: String = message.chars().take(70).collect();
                println!(
                    "{:>7}  {:<66}  {}: {message}",
                    planted.pitfall, planted.bug, planted.found_by
                );
            }
            None => missed.push(planted.bug),
        }
    }
    fs::remove_dir_all(&folder).expect("the copies go");
    assert!(missed.is_empty(), "not found: {missed:?}");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a writable folder");
    for entry in fs::read_dir(from).expect("a readable folder") {
        let entry = entry.expect("a readable entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// The copy is no member of the workspace.
fn make_standalone(copy: &Path) {
    let manifest = "[package]\nname = \"synod-paxos\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
        [workspace]\n\n[dependencies]\nbytes = \"1\"\n\n[dev-dependencies]\nfastrand = \"2\"\n\n\
        [profile.dev]\nopt-level = 1\n";
    fs::write(copy.join("Cargo.toml"), manifest).expect("a writable copy");
    // Only what the crate and the cluster tests need.
    for test in ["scripts.rs", "planted.rs", "model.rs"] {
        let _ = fs::remove_file(copy.join("tests").join(test));
    }
}
