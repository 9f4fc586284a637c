//! What stands below the help of each command: how it is used.

use clap::Command;

/// The words of a command, and its examples with what they do.
const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    ("init", &[("synod init --config /etc/synod.toml", "the data folder that the settings name")]),
    ("serve", &[("synod serve --config /etc/synod.toml", "a node, until SIGTERM")]),
    (
        "cluster",
        &[
            ("synod cluster", "three nodes here, with their data in ./synod-data"),
            ("synod cluster --nodes 5 --base-port 8000 --data-dir five", "more of them"),
            ("synod cluster --fresh --restart", "begin anew, and start again what dies"),
        ],
    ),
    (
        "put",
        &[
            ("synod put greeting hello", "a short value"),
            ("synod put picture --file cat.png", "the bytes of a file"),
            ("tar c dir | synod put archive", "the bytes of standard input"),
            ("synod put owner me --if-absent", "only if there is no such key; else exit code 3"),
            ("synod put greeting hi --previous", "and show what was there before"),
            (
                "synod put order paid --idempotency-key order-17",
                "once, however often it is asked for in ten minutes",
            ),
        ],
    ),
    (
        "get",
        &[
            ("synod get greeting", "the value, as it is"),
            ("synod get picture --file cat.png", "into a file"),
            ("synod get greeting --revision 7", "as it was then"),
            ("synod get greeting --json", "with its revisions"),
            ("synod get greeting --stale --min-revision 7", "from any node, once it has that"),
        ],
    ),
    (
        "delete",
        &[
            ("synod delete greeting", "one key; exit code 3 if there is none"),
            ("synod delete --prefix jobs/", "every key that begins so"),
            ("synod delete greeting --if-revision 7", "only if nobody changed it since"),
        ],
    ),
    (
        "list",
        &[
            ("synod list jobs/", "keys that begin so, as a table"),
            ("synod list --prefix jobs/ --json", "the same, for programs"),
            ("synod list --start a --end b --keys-only", "the names in a range"),
            ("synod list --reverse --limit 10", "the last ten"),
            ("synod list --count", "how many there are"),
            ("synod list --ndjson | jq .key", "all of them, a JSON document a line"),
        ],
    ),
    (
        "txn",
        &[
            ("synod txn transfer.json", "exit code 0 if everything compared holds, 3 if not"),
            (
                r#"echo '{"success": [{"op": "get", "key": "a"}]}' | synod txn -"#,
                "from standard input",
            ),
        ],
    ),
    (
        "batch",
        &[
            ("synod batch lines.ndjson --quiet", "puts and deletes; says which lines failed"),
            (
                r#"echo '{"op": "put", "key": "a", "value": "1"}' | synod batch"#,
                "from standard input",
            ),
        ],
    ),
    ("compact", &[("synod compact 9000", "forget what was replaced before revision 9000")]),
    (
        "export",
        &[
            ("synod export all.synod.ndjson", "every key, at one revision"),
            ("synod export --prefix jobs/ - | gzip > jobs.gz", "some, through a pipe"),
        ],
    ),
    (
        "import",
        &[
            ("synod import all.synod.ndjson", "store all keys of an export"),
            ("gunzip < jobs.gz | synod import -", "through a pipe"),
            ("synod import --check all.synod.ndjson", "only say whether it is whole"),
        ],
    ),
    (
        "status",
        &[
            ("synod status", "a line per member"),
            ("synod status --json --endpoints http://10.0.0.1:7001", "all that each of them says"),
        ],
    ),
    ("member list", &[("synod member list", "who is a member, and who votes")]),
    (
        "member add",
        &[("synod member add --config new.toml", "on the new machine; then `synod serve`")],
    ),
    ("member promote", &[("synod member promote 4", "node 4 votes from now on")]),
    ("member remove", &[("synod member remove 3", "node 3 is a member no more")]),
    (
        "member replace",
        &[("synod member replace 3 --config new.toml", "on the new machine, while it serves")],
    ),
    (
        "member move",
        &[
            (
                "synod member move 3 --peer 10.0.0.9:7011 --client-url http://10.0.0.9:7001",
                "node 3 will be there",
            ),
            (
                "synod member move 3 --peer 10.0.0.9:7011 --endpoints http://10.0.0.7:7001,http://10.0.0.8:7001",
                "when the nodes moved already: where they are now",
            ),
        ],
    ),
    (
        "member quorums",
        &[("synod member quorums --promise 4 --accept 2", "of five voters, two choose a value")],
    ),
    (
        "transfer",
        &[("synod transfer", "whoever is fit leads"), ("synod transfer --to 2", "node 2 leads")],
    ),
    ("backup", &[("synod backup all.synod", "the whole store, with its history and leases")]),
    (
        "restore",
        &[
            ("synod restore all.synod --config node1.toml", "a node of a new cluster"),
            ("synod restore all.synod --check", "only say whether it is whole"),
        ],
    ),
    ("inspect", &[("synod inspect --data /var/lib/synod", "of a node that does not run")]),
    (
        "recover",
        &[("synod recover --data /var/lib/synod", "asks before it makes a cluster of one node")],
    ),
    (
        "bench throughput",
        &[("synod bench throughput --clients 64", "a cluster of its own, deleted afterwards")],
    ),
    ("bench failover", &[("synod bench failover --kills 10 --report out", "with plots in out/")]),
    ("bench compare", &[("synod bench compare", "beside etcd, where that is installed")]),
    (
        "chaos",
        &[
            ("synod chaos --duration-s 300", "five minutes of faults"),
            ("synod chaos --faults-only kill,partition --seed 7", "some of them, as drawn from 7"),
        ],
    ),
    (
        "sim",
        &[
            ("synod sim --seeds 0..1000", "a thousand runs"),
            ("synod sim --seed 42 --trace", "one of them, event by event"),
        ],
    ),
    ("sim planted", &[("synod sim planted --seeds-max 500", "each known mistake, once")]),
    (
        "completions",
        &[
            (
                "synod completions bash > ~/.local/share/bash-completion/completions/synod",
                "for new shells",
            ),
            ("source <(synod completions zsh)", "for this one"),
            ("synod completions fish > ~/.config/fish/completions/synod.fish", "for new shells"),
        ],
    ),
];

/// The same command with examples in its help, and in that of those below it.
pub(crate) fn with_examples(command: Command) -> Command {
    command.mut_subcommands(|below| add(below, ""))
}

fn add(command: Command, above: &str) -> Command {
    let words = format!("{above}{}", command.get_name());
    let found = EXAMPLES.iter().find(|(known, _)| *known == words);
    let command = match found {
        Some((_, examples)) => command.after_help(text(examples)),
        None => command,
    };
    let above = format!("{words} ");
    command.mut_subcommands(|below| add(below, &above))
}

fn text(examples: &[(&str, &str)]) -> String {
    let mut text = String::from("Examples:");
    for (line, meaning) in examples {
        text.push_str(&format!("\n  {line}\n      {meaning}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::arguments::Arguments;

    fn without(command: &Command, above: &str, found: &mut Vec<String>) {
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let words = format!("{above}{}", below.get_name());
            let is_group = below.is_subcommand_required_set();
            if !is_group && below.get_after_help().is_none() && below.get_name() != "help" {
                found.push(words.clone());
            }
            without(below, &format!("{words} "), found);
        }
    }

    #[test]
    fn every_command_shows_how_it_is_used() {
        let mut found = Vec::new();
        without(&with_examples(Arguments::command()), "", &mut found);
        assert_eq!(found, Vec::<String>::new(), "give them examples");
    }

    /// What an example says can be typed.
    #[test]
    fn every_example_is_understood() {
        for (words, examples) in EXAMPLES {
            for (line, _) in *examples {
                let at = line.find("synod ").expect("the program");
                let line = line[at..].split(['|', '>', ')']).next().expect("a first part");
                let typed = line.split_whitespace();
                assert!(line.starts_with(&format!("synod {words}")), "{words}: {line}");
                let parsed = Arguments::command().try_get_matches_from(typed);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }
}
