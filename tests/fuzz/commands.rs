//! What stands in the log: commands, entries and batches. Each has one encoding only.

use bytes::Bytes;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use synod_kv::ServerId;
use synod_wire::{batch, command};

use crate::engine::{Answer, Fuzz};
use crate::memory::within;
use crate::samples;

/// Random values of a strategy, the same in each run.
pub(crate) fn drawn<S: Strategy>(strategy: &S, count: usize) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a value").current()).collect()
}

fn encoded_commands() -> Vec<Vec<u8>> {
    let named = samples::commands().into_iter().map(|(_, command)| command);
    let drawn = drawn(&samples::any_command(), 50);
    named.chain(drawn).map(|sample| command::encode(&sample).to_vec()).collect()
}

fn entry(command: &[u8]) -> Bytes {
    batch::encode_entry(ServerId { origin: 3, incarnation: 5, sequence: 7 }, command)
}

#[test]
fn command() {
    let fuzz = Fuzz { name: "command", valid: encoded_commands(), words: &[], bytes_max: 4 << 10 };
    fuzz.run(|input| {
        let bytes = Bytes::copy_from_slice(input);
        // What is read are slices of the input; their counter takes memory, and the lists of a
        // transaction, which are never longer than the input has room for.
        let decoded = within(128 + 32 * input.len(), || command::decode(bytes));
        if let Ok(decoded) = &decoded {
            assert_eq!(command::encode(decoded), input, "another encoding of a command");
        }
        Answer::of(&decoded, input.get(1..4).map(|kind| format!("{kind:?}")).unwrap_or_default())
    });
}

#[test]
fn entry_of_a_batch() {
    let valid = encoded_commands().iter().map(|command| entry(command).to_vec()).collect();
    let fuzz = Fuzz { name: "entry", valid, words: &[], bytes_max: 4 << 10 };
    fuzz.run(|input| {
        let bytes = Bytes::copy_from_slice(input);
        let decoded = within(128, || batch::decode_entry(bytes));
        if let Ok(decoded) = &decoded {
            let again = batch::encode_entry(decoded.id, &decoded.command);
            assert_eq!(again, input, "another encoding of an entry");
        }
        Answer::of(&decoded, "")
    });
}

#[test]
fn batch_of_a_slot() {
    let commands = encoded_commands();
    let with = |entries: usize, time| {
        let mut builder = batch::Builder::new(time);
        commands.iter().take(entries).for_each(|command| builder.push_entry(&entry(command)));
        builder.finish().to_vec()
    };
    let valid = vec![with(0, 0), with(1, u64::MAX), with(7, 3), with(57, 4)];
    let fuzz = Fuzz { name: "batch", valid, words: &[], bytes_max: 16 << 10 };
    fuzz.run(|input| {
        let bytes = Bytes::copy_from_slice(input);
        let decoded = within(128 + 3 * input.len(), || batch::decode(bytes));
        if let Ok(batch) = &decoded {
            let mut builder = batch::Builder::new(batch.cluster_time_ms);
            for entry in &batch.entries {
                builder.push_entry(&batch::encode_entry(entry.id, &entry.command));
                // What a replica does with it when it applies the slot.
                let command = command::decode(entry.command.clone());
                assert!(command.is_err() || command::encode(&command.unwrap()) == entry.command);
            }
            assert_eq!(builder.finish(), input, "another encoding of a batch");
        }
        Answer::of(&decoded, "")
    });
}
