//! docs/http.md says what the calls do: its lines are run, and its tables are those of the code.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::cluster::TestCluster;
use synod_api::Limits;

const NODES: u16 = 3;
const BEGIN: &str = "<!-- tables begin -->\n";
const END: &str = "<!-- tables end -->\n";
/// Set to write the tables into the document.
const WRITE: &str = "SYNOD_WRITE_DOCS";
/// The text by which commits draw what they try.
const DRAW: &str = "SYNOD_DRAW";

/// A command of the document, and what it says comes of it.
#[derive(Debug)]
struct Example {
    /// Where it stands.
    line: usize,
    command: String,
    status: String,
    output: Vec<String>,
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/http.md")
}

fn document() -> String {
    fs::read_to_string(path()).expect("docs/http.md")
}

/// The commands of all blocks, in their order. A command goes up to its status, and beyond if
/// it brings its input along.
fn examples(text: &str) -> Vec<Example> {
    let mut lines = (1..).zip(text.lines());
    let mut examples: Vec<Example> = Vec::new();
    let mut is_inside = false;
    while let Some((line, text)) = lines.next() {
        if text.starts_with("```") {
            is_inside = text == "```console";
            continue;
        }
        let Some(first) = text.strip_prefix("$ ") else {
            if is_inside {
                let last = examples.last_mut().expect("a command before its output");
                last.output.push(text.to_owned());
            }
            continue;
        };
        assert!(is_inside, "line {line}: a command stands in a block of the kind console");
        let mut command = first.to_owned();
        let mut more = || lines.next().map(|(_, text)| format!("\n{text}")).expect("its rest");
        let status = loop {
            let last = command.lines().last().unwrap_or_default();
            match last.rsplit_once(" # ") {
                Some((_, status)) => break status.to_owned(),
                None => command += &more(),
            }
        };
        while command.contains("<<'END'") && !command.ends_with("\nEND") {
            command += &more();
        }
        examples.push(Example { line, command, status, output: Vec::new() });
    }
    examples
}

/// Runs it against a cluster, whose nodes are counted from another one in each turn. What is
/// for the dead one is asked of the next.
fn run(example: &Example, cluster: &TestCluster, (turn, dead): (u16, Option<u32>), folder: &Path) {
    let mut command = example.command.clone();
    for number in 1..=NODES {
        let id = |turn| u32::from((number - 1 + turn) % NODES + 1);
        let id = if dead == Some(id(turn)) { id(turn + 1) } else { id(turn) };
        let address = cluster.client_addr(id).to_string();
        // Not yet a number of a port that a later turn of this loop would take for another.
        command =
            command.replace(&format!("127.0.0.1:700{number}"), &address.replace(':', "\u{1}"));
    }
    let command = command.replace('\u{1}', ":");
    let heads = folder.join("heads");
    let script =
        format!("curl() {{ command curl -sS -D '{}' \"$@\"; }}\n{command}", heads.display());
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let heads = fs::read_to_string(&heads).unwrap_or_default();
    let status = heads.lines().rfind(|line| line.starts_with("HTTP/"));
    let status = status.and_then(|line| line.split(' ').nth(1)).unwrap_or("none");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let place =
        format!("line {} of docs/http.md, turn {turn}, dead: {dead:?}: {command}", example.line);
    assert_eq!(status, example.status, "{place}\n{printed}{errors}");
    let actual: Vec<_> = printed.trim_end().lines().map(|line| line.trim_end()).collect();
    let expected: Vec<_> = example.output.iter().map(String::as_str).collect();
    assert!(fits_lines(&expected, &actual), "{place}\nprints\n{printed}{errors}");
}

/// Whether these lines were printed; a line of nothing but "…" stands for any.
fn fits_lines(expected: &[&str], actual: &[&str]) -> bool {
    match expected {
        [] => actual.is_empty(),
        ["…", rest @ ..] => {
            (0..=actual.len()).any(|skipped| fits_lines(rest, &actual[skipped..]))
        }
        [first, rest @ ..] => actual
            .split_first()
            .is_some_and(|(line, others)| fits(first, line) && fits_lines(rest, others)),
    }
}

/// Whether this was printed; "…" stands for anything.
fn fits(expected: &str, actual: &str) -> bool {
    match expected.split_once('…') {
        None => expected == actual,
        Some((before, rest)) => actual.strip_prefix(before).is_some_and(|left| {
            left.char_indices()
                .map(|(at, _)| at)
                .chain([left.len()])
                .any(|at| fits(rest, &left[at..]))
        }),
    }
}

#[test]
fn the_lines_do_what_they_say() {
    let examples = examples(&document());
    for turn in 0..NODES {
        let cluster = TestCluster::start(NODES.into());
        let folder = support::cluster::folder();
        for example in &examples {
            run(example, &cluster, (turn, None), folder.path());
        }
    }
}

/// The leader dies before every third line: what is asked of the others the moment after does
/// what the document says.
#[test]
fn the_lines_do_what_they_say_when_the_leader_has_just_died() {
    let examples = examples(&document());
    let first = draw() % 3;
    eprintln!("every third line from number {first} on ({DRAW})");
    let mut cluster = TestCluster::start(NODES.into());
    let folder = support::cluster::folder();
    for (number, example) in examples.iter().enumerate() {
        // The leader that is to give its office away has to live.
        if number % 3 != first || example.command.contains("/transfer") {
            run(example, &cluster, (0, None), folder.path());
            continue;
        }
        let leader = cluster.leader();
        cluster.kill(leader);
        run(example, &cluster, (0, Some(leader)), folder.path());
        cluster.start_by_hand(leader);
        cluster.wait_until_complete();
    }
}

/// A number that each commit has another of.
fn draw() -> usize {
    let text = std::env::var(DRAW).unwrap_or_default();
    text.bytes().fold(0, |sum, byte| sum + usize::from(byte))
}

/// The operations: path, method, and what is said of them.
fn operations(described: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = described["paths"].as_object().expect("paths").iter();
    let operations = paths.flat_map(|(path, item)| {
        let item = item.as_object().expect("operations").iter();
        item.map(move |(method, says)| (path.as_str(), method.as_str(), says))
    });
    operations.collect()
}

#[test]
fn every_call_is_shown() {
    let described = synod_api::openapi(&Limits::default());
    let examples = examples(&document());
    let asked: Vec<_> = examples.iter().filter_map(|example| asked(&example.command)).collect();
    for (path, method, _) in operations(&described).into_iter().filter(|one| one.1 != "head") {
        let is_shown = asked
            .iter()
            .any(|(asked, target)| asked.eq_ignore_ascii_case(method) && is_below(path, target));
        assert!(is_shown, "docs/http.md does not show {method} {path}");
    }
}

/// The method and the path of a command.
fn asked(command: &str) -> Option<(&str, &str)> {
    let (_, rest) = command.split_once("127.0.0.1:700")?;
    let target = &rest[1..];
    let end = target.find(['\'', '"', ' ', '?', '\n']).unwrap_or(target.len());
    let method = match command.split_once("-X ") {
        Some((_, rest)) => rest.split(' ').next()?,
        None if command.contains(" -d ") || command.contains("--data") => "POST",
        None if command.contains(" -T ") => "PUT",
        None => "GET",
    };
    Some((method, &target[..end]))
}

/// Whether a path is one of those that the pattern means.
fn is_below(pattern: &str, path: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('{') else { return pattern == path };
    let (name, behind) = rest.split_once('}').expect("a pattern");
    let middle = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
    middle.is_some_and(|middle| {
        !middle.is_empty() && (name != "id" || middle.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[test]
fn the_tables_are_those_of_the_code() {
    let text = document();
    let (before, rest) = text.split_once(BEGIN).expect("the begin of the tables");
    let (written, after) = rest.split_once(END).expect("the end of the tables");
    let tables = tables(&synod_api::openapi(&Limits::default()));
    if std::env::var_os(WRITE).is_some() {
        fs::write(path(), format!("{before}{BEGIN}{tables}{END}{after}")).expect("it is written");
        return;
    }
    assert!(written == tables, "the tables of docs/http.md are old: set {WRITE}=1, run this again");
}

fn tables(described: &Value) -> String {
    let operations = operations(described);
    [calls(&operations), parameters(&operations), headers(described), problems(described)].concat()
}

fn names(says: &Value, place: &str) -> String {
    let all = says["parameters"].as_array().into_iter().flatten();
    let names = all.filter(|one| one["in"] == place).map(|one| {
        let must = if one["required"] == true { " (must be)" } else { "" };
        format!("`{}`{must}", text(&one["name"]))
    });
    names.collect::<Vec<_>>().join(", ")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn calls(operations: &[(&str, &str, &Value)]) -> String {
    let mut out = "### Calls\n\n| call | what it does | parameters | headers | body | answers |\n|---|---|---|---|---|---|\n".to_owned();
    for (path, method, says) in operations.iter().filter(|one| one.1 != "head") {
        let has_head = operations.iter().any(|one| one.0 == *path && one.1 == "head");
        let method = method.to_uppercase();
        let methods = if method == "GET" && has_head { "GET, HEAD".to_owned() } else { method };
        let contents = says["requestBody"]["content"].as_object();
        let body = contents.and_then(|contents| contents.iter().next()).map(|(kind, content)| {
            let schema =
                content["schema"]["$ref"].as_str().and_then(|name| name.rsplit('/').next());
            format!("`{}`", schema.unwrap_or(kind))
        });
        let statuses: Vec<_> =
            says["responses"].as_object().expect("answers").keys().map(String::as_str).collect();
        let row = format!(
            "| `{methods} {path}` | {} | {} | {} | {} | {} |\n",
            text(&says["summary"]),
            names(says, "query"),
            names(says, "header"),
            body.unwrap_or_default(),
            statuses.join(", ")
        );
        out += &row;
    }
    out + "\n"
}

/// What a parameter may be.
fn values(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        if words.iter().any(|word| word == "") {
            return "`true`, `false`; without a value `true`".to_owned();
        }
        let words: Vec<_> = words.iter().map(|word| format!("`{}`", text(word))).collect();
        return words.join(", ");
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        return format!("`{}`", pattern.replace('|', "\\|"));
    }
    match (text(&schema["type"]), &schema["minimum"], &schema["maximum"], &schema["maxLength"]) {
        ("integer", least, most, _) if *most == u64::MAX => {
            format!("a number from {least} on, below 2^64")
        }
        ("integer", least, most, _) => format!("a number from {least} to {most}"),
        (_, _, _, Value::Null) => "a text".to_owned(),
        (_, _, _, most) => format!("bytes, percent-encoded, at most {most}"),
    }
}

fn parameters(operations: &[(&str, &str, &Value)]) -> String {
    let mut rows: BTreeSet<(usize, String)> = BTreeSet::new();
    for (_, _, says) in operations {
        for one in says["parameters"].as_array().into_iter().flatten() {
            let place = text(&one["in"]);
            let rank = ["path", "query", "header"].iter().position(|known| *known == place);
            let row = format!(
                "| `{}` | {place} | {} | {} |\n",
                text(&one["name"]),
                values(&one["schema"]),
                text(&one["description"])
            );
            rows.insert((rank.expect("a place"), row));
        }
    }
    let mut out = "### Parameters\n\nWith the usual limits. An unknown one is refused, and one that is given twice.\n\n| name | where | values | meaning |\n|---|---|---|---|\n".to_owned();
    rows.iter().for_each(|(_, row)| out += row);
    out + "\n"
}

fn headers(described: &Value) -> String {
    let mut out = "### Headers of answers\n\n| header | meaning |\n|---|---|\n".to_owned();
    for (name, says) in described["components"]["headers"].as_object().expect("headers") {
        writeln!(out, "| `{name}` | {} |", text(&says["description"])).expect("a text takes more");
    }
    out + "\n"
}

fn problems(described: &Value) -> String {
    let mut out =
        "### Problems\n\n| status | `type` | title | calls |\n|---|---|---|---|\n".to_owned();
    let operations: Vec<_> =
        operations(described).into_iter().filter(|one| one.1 != "head").collect();
    let mut kinds = synod_kv::http::ProblemKind::ALL;
    kinds.sort_by_key(|kind| kind.status());
    for kind in kinds {
        let calls = operations.iter().filter(|(_, _, says)| {
            let schema = &says["responses"][kind.status().to_string()]["content"]["application/problem+json"]["schema"];
            let types = schema["allOf"][1]["properties"]["type"]["enum"].as_array();
            types.into_iter().flatten().any(|known| known == kind.as_type())
        });
        let calls: Vec<_> =
            calls.map(|(path, method, _)| format!("`{} {path}`", method.to_uppercase())).collect();
        let calls = match calls.len() {
            0 => "what is no resource".to_owned(),
            all if all == operations.len() => "all".to_owned(),
            1..=7 => calls.join(", "),
            some => format!("{some} of {}", operations.len()),
        };
        let row =
            format!("| {} | `{}` | {} | {calls} |\n", kind.status(), kind.as_type(), kind.title());
        out += &row;
    }
    out
}

#[test]
fn what_stands_for_anything_does() {
    assert!(fits("a…c", "abbc") && fits("a…", "a") && !fits("a…c", "abb") && !fits("a", "ab"));
    assert!(fits_lines(&["…", "b"], &["a", "a", "b"]) && fits_lines(&["…", "b"], &["b"]));
    assert!(!fits_lines(&["…", "b"], &["b", "a"]) && !fits_lines(&[], &["a"]));
    let text = "```console\n$ curl a \\\n -d 1 # 200\n…\n$ curl b <<'END' # 201\nx\nEND\n```\n";
    let examples = examples(text);
    assert_eq!(examples[0].command, "curl a \\\n -d 1 # 200");
    assert_eq!(
        (examples[0].status.as_str(), examples[0].output.as_slice()),
        ("200", &["…".to_owned()][..])
    );
    assert_eq!(
        (examples[1].command.as_str(), examples[1].output.len()),
        ("curl b <<'END' # 201\nx\nEND", 0)
    );
}
