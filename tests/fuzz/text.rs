//! What is text: settings files, the JSON between servers and clients, and base64.

use std::fmt::Debug;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use synod_kv::http::{
    DeleteBody, KeyText, ListPage, Problem, PutBody, StatusBody, ValueText, base64,
};
use synod_node::Settings;

use crate::engine::{Answer, Fuzz};
use crate::memory::within;

const TOML_WORDS: &[&[u8]] = &[
    b"[[members]]",
    b"[limits]",
    b"[timing]",
    b"[",
    b"{",
    b"\"\"\"",
    b"'",
    b"\\u0000",
    b"= -1",
    b"= 1e400",
    b"= nan",
    b"= 0x7fffffffffffffff",
    b"1979-05-27T07:32:00Z",
    b"http://",
    b"127.0.0.1:0",
    b":65536",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"a.b.c.d.e.f.g.h.i.j.k.l.m=",
    b"\n",
    b"#",
];

#[test]
fn settings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let examples = ["local-1.toml", "local-2.toml", "local-3.toml", "production.toml"];
    let valid = examples.map(|name| std::fs::read(folder.join(name)).expect("an example"));
    let fuzz =
        Fuzz { name: "settings", valid: valid.into(), words: TOML_WORDS, bytes_max: 16 << 10 };
    fuzz.run(|input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return Answer { accepted: false, words: "not UTF-8".to_owned() };
        };
        let file = Path::new("/etc/synod/synod.toml");
        let parsed = within((64 << 10) + 192 * input.len(), || Settings::parse(text, file));
        if let Ok(settings) = &parsed {
            // What was checked can be used.
            assert_ne!(settings.cluster_id(), 0);
            assert!(settings.configuration().contains(settings.node()));
            assert_eq!(settings.members_by_id().len(), settings.members.len());
            assert!(settings.data_dir.is_absolute());
        }
        let words = parsed.as_ref().err().map(ToString::to_string).unwrap_or_default();
        // Without the excerpt of the file that the parser shows.
        let lines = words.lines().filter(|line| !line.contains('|'));
        Answer { accepted: parsed.is_ok(), words: lines.collect() }
    });
}

const JSON_WORDS: &[&[u8]] = &[
    b"\"key\":",
    b"\"key_base64\":",
    b"\"value\":",
    b"\"value_base64\":",
    b"\"previous\":",
    b"null",
    b"true",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":",
    b"\\ud800",
    b"\\u0000",
    b"1e999",
    b"-0",
    b"18446744073709551616",
    b"Zg==",
];

fn documents() -> Vec<Vec<u8>> {
    let texts = [
        r#"0{"key":"a","revision":1,"create_revision":1,"version":1}"#,
        r#"0{"revision":7,"create_revision":1,"version":3,"previous":{"value_base64":"/w==","create_revision":1,"mod_revision":2,"version":2}}"#,
        r#"1{"revision":4,"deleted":1,"more":true}"#,
        r#"2{"revision":9,"count":2,"entries":[{"key":"a","value":"b","create_revision":1,"mod_revision":2,"version":3},{"key_base64":"YQ==","create_revision":1,"mod_revision":2,"version":3}],"next":"b%00"}"#,
        r#"3{"type":"urn:synod:no-leader","title":"No leader","status":503,"detail":"No quorum.","outcome":"not_applied","leader":{"id":3,"url":"http://h:1"},"current_revision":4}"#,
        r#"4{"node":1,"cluster":"0f","version":"0.1.0","uptime_seconds":5,"role":"leader","ballot":"3.1","leader":null,"chosen_slot":9,"applied_slot":8,"durable_slot":7,"truncated_slot":6,"revision":40,"journal_bytes":1,"state_bytes":3,"failures_survivable":1,"peers":[{"id":2,"reachable":true,"chosen_slot":9,"lag_slots":0,"round_trip_us":120}]}"#,
        r"5Zm9vYg==",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// Reads a document; what was read is written and read as the same.
fn read_document<T: DeserializeOwned + Serialize + PartialEq + Debug>(
    text: &[u8],
) -> (Option<T>, Answer) {
    // Members that nobody knows are kept until the document ends: 64 bytes for the 5 of
    // `"":1,`, in a list that grows.
    let read = within(1024 + 48 * text.len(), || serde_json::from_slice::<T>(text));
    if let Ok(document) = &read {
        let again = serde_json::to_vec(document).expect("plain fields");
        assert_eq!(serde_json::from_slice::<T>(&again).expect("it was written"), *document);
    }
    let name = std::any::type_name::<T>();
    let (accepted, error) = (read.is_ok(), read.as_ref().err().map(ToString::to_string));
    // Up to where the error quotes the input.
    let error = error.as_deref().unwrap_or_default().split(['"', '`']).next();
    (read.ok(), Answer { accepted, words: format!("{name} {error:?}") })
}

/// The bodies that a client reads, each behind a digit that says which.
#[test]
fn json() {
    let fuzz = Fuzz { name: "json", valid: documents(), words: JSON_WORDS, bytes_max: 4 << 10 };
    fuzz.run(|input| {
        let (kind, text) = input.split_first().unwrap_or((&b'5', b""));
        match kind {
            b'0' => read_document::<PutBody>(text).1,
            b'1' => read_document::<DeleteBody>(text).1,
            b'2' => {
                let (page, answer) = read_document::<ListPage>(text);
                for entry in page.into_iter().flat_map(|page| page.entries) {
                    check_key(&entry.key);
                    entry.record.value.iter().for_each(check_value);
                }
                answer
            }
            b'3' => {
                let (problem, answer) = read_document::<Problem>(text);
                problem.as_ref().map(Problem::kind);
                answer
            }
            b'4' => read_document::<StatusBody>(text).1,
            _ => {
                let text = std::str::from_utf8(text).ok();
                let read = text.and_then(|text| within(1 + text.len(), || base64::decode(text)));
                if let Some(bytes) = &read {
                    assert_eq!(Some(&*base64::encode(bytes)), text, "another base64");
                }
                Answer { accepted: read.is_some(), words: "base64".to_owned() }
            }
        }
    });
}

fn check_key(key: &KeyText) {
    if let (KeyText::Base64(text), Some(bytes)) = (key, key.to_bytes()) {
        assert_eq!(base64::encode(&bytes), *text);
    }
}

fn check_value(value: &ValueText) {
    if let (ValueText::Base64(text), Some(bytes)) = (value, value.to_bytes()) {
        assert_eq!(base64::encode(&bytes), *text);
    }
}
