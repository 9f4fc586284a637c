//! Whether what clients were told can be true of one register per key.
//!
//! Keys are independent and linearizability is local (Herlihy and Wing 1990), so
//! each key is checked alone. A write whose outcome is unknown may have had effect
//! at any time after its call, or never. A search that takes too long counts as
//! failed: "could not check" is no success.

use std::collections::BTreeMap;

use synod_sim::checkers::search::{Step, Unexplained, search};

use super::history::{End, Operation, Request};

/// A search for one key that takes more tries is given up, and failed.
const TRIES_MAX: u64 = 3_000_000;
/// How the reason of such a key begins.
const UNDECIDED: &str = "could not be checked";
/// More than this many of a kind say nothing new.
const FINDINGS_MAX: usize = 10;

/// What checking a history has shown.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) checked: u64,
    pub(super) keys: u64,
    pub(super) lost: u64,
    /// Keys of which nobody can say.
    pub(super) undecided: u64,
    pub(super) violations: Vec<String>,
}

/// Checks a whole history whose operations from `final_us` on are the reads at the
/// end, when everything was healed.
pub(super) fn check(operations: &[Operation], final_us: u64) -> Findings {
    let mut by_key: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    for operation in operations {
        by_key.entry(operation.key).or_default().push(*operation);
    }
    let mut findings = Findings { keys: by_key.len() as u64, ..Findings::default() };
    for (key, operations) in by_key {
        // What had no effect says nothing of the register.
        let told = operations.iter().filter(|one| one.end != End::Failed).count();
        findings.checked += told as u64;
        if let Some(loss) = lost_write(&operations, final_us) {
            findings.lost += 1;
            findings.violations.push(format!("key {key}: {loss}"));
        }
        if let Err(reason) = check_key(&operations) {
            findings.undecided += u64::from(reason.starts_with(UNDECIDED));
            findings.violations.push(format!("key {key}: {reason}"));
        }
    }
    let more = findings.violations.len().saturating_sub(FINDINGS_MAX);
    if more > 0 {
        findings.violations.truncate(FINDINGS_MAX);
        findings.violations.push(format!("and {more} more"));
    }
    findings
}

/// The newest acknowledged write must be what is there in the end, or something newer.
fn lost_write(operations: &[Operation], final_us: u64) -> Option<String> {
    let acknowledged = operations.iter().filter(|one| one.called_us < final_us);
    let newest = acknowledged.max_by_key(|one| one.acknowledged_at())?;
    let newest_revision = newest.acknowledged_at()?;
    let may_be_gone = newest.request == Request::Delete
        || operations.iter().any(|one| one.request == Request::Delete && one.end == End::Unknown);
    let reads = operations.iter().filter(|one| one.called_us >= final_us);
    reads.into_iter().find_map(|read| {
        let lost = match read.end {
            End::Found(Some((value, revision))) => {
                let is_it = newest.writes_value() && value == newest.number;
                revision < newest_revision || (revision == newest_revision && !is_it)
            }
            End::Found(None) => !may_be_gone,
            _ => false,
        };
        lost.then(|| {
            format!(
                "an acknowledged write is lost: operation {} was acknowledged at revision \
                 {newest_revision}, node {} has {:?} in the end",
                newest.number, read.node, read.end
            )
        })
    })
}

/// A key's register: its value, the value's revision where anybody knows it, and the
/// highest known revision of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Register {
    value: Option<(u64, Option<u64>)>,
    changed: u64,
}

/// An operation, and the revision that anybody was told of what it wrote.
#[derive(Debug)]
struct Told {
    operation: Operation,
    revision: Option<u64>,
    /// The revision that its condition or its answer names, if the value of that
    /// revision was never seen: an unknown write can be met before it is read.
    unseen: Option<u64>,
}

fn check_key(operations: &[Operation]) -> Result<(), String> {
    let revisions = revisions_of(operations)?;
    let told = operations.iter().filter(|one| one.end != End::Failed);
    let steps: Vec<Told> = told
        .map(|one| {
            let revision = one.acknowledged_at();
            let told = || revisions.get(&one.number).copied().filter(|_| one.writes_value());
            let named = match (one.request, one.end) {
                (_, End::Mismatch(current)) => current,
                (Request::Swap(expected), _) => Some(expected),
                _ => None,
            };
            let unseen = named.filter(|named| !revisions.values().any(|known| known == named));
            Told { operation: *one, revision: revision.or_else(told), unseen }
        })
        .collect();
    match search(&steps, TRIES_MAX) {
        Ok(()) => Ok(()),
        Err(Unexplained::TooManySteps) => {
            Err(format!("{UNDECIDED}: {} operations need too many steps", steps.len()))
        }
        Err(Unexplained::NoOrder { deepest }) => Err(not_linearizable(&steps, deepest)),
    }
}

/// The revision of each value, from all who were told.
fn revisions_of(operations: &[Operation]) -> Result<BTreeMap<u64, u64>, String> {
    let mut revisions = BTreeMap::new();
    for operation in operations {
        let (value, revision) = match operation.end {
            End::Found(Some(found)) => found,
            End::Stored(revision) => (operation.number, revision),
            _ => continue,
        };
        let known = *revisions.entry(value).or_insert(revision);
        if known != revision {
            return Err(format!("value {value} has the revisions {known} and {revision}"));
        }
    }
    Ok(revisions)
}

fn not_linearizable(steps: &[Told], deepest: usize) -> String {
    let mut by_return: Vec<&Told> = steps.iter().collect();
    by_return.sort_by_key(|step| step.operation.returned_us);
    let mut text = format!(
        "no order of the {} operations explains their answers; {deepest} could be explained, \
         about up to here:",
        steps.len()
    );
    for step in by_return.iter().skip(deepest.saturating_sub(3)).take(6) {
        let Operation { number, node, request, called_us, returned_us, end, .. } = step.operation;
        text.push_str(&format!(
            "\n  #{number} {called_us}..{returned_us} us, node {node}: {request:?} -> {end:?}"
        ));
    }
    text
}

impl Step for Told {
    type State = Register;
    /// Changes by their revision; what is not known to have had effect comes last.
    type Hint = (u64, bool);

    fn called_us(&self) -> u64 {
        self.operation.called_us
    }

    fn returned_us(&self) -> Option<u64> {
        (self.operation.end != End::Unknown).then_some(self.operation.returned_us)
    }

    fn carry_out(&self, before: &Register) -> Option<Register> {
        let before = &self.named(before);
        let holds = match self.operation.request {
            Request::Get | Request::Put => true,
            Request::Delete => before.value.is_some(),
            Request::Create => before.value.is_none(),
            Request::Swap(expected) => {
                before.value.is_some_and(|(_, revision)| revision == Some(expected))
            }
        };
        match self.operation.end {
            End::Found(found) => {
                let seen = before.value.map(|(value, _)| value);
                (seen == found.map(|(value, _)| value)).then_some(*before)
            }
            End::Absent => (!holds).then_some(*before),
            End::Mismatch(current) => {
                let is_current = match (before.value, current) {
                    (None, None) => true,
                    (Some((_, known)), Some(current)) => known == Some(current),
                    _ => false,
                };
                (!holds && is_current).then_some(*before)
            }
            End::Stored(_) | End::Deleted(_) | End::Unknown => {
                holds.then(|| self.change(before)).flatten()
            }
            End::Failed => None,
        }
    }

    fn hint(&self) -> (u64, bool) {
        match self.operation.end {
            End::Found(found) => (found.map_or(0, |(_, revision)| revision), true),
            End::Absent | End::Mismatch(_) => (0, true),
            _ => (self.revision.unwrap_or(u64::MAX), false),
        }
    }
}

impl Told {
    /// A value whose revision nobody knew may be the one that this step names.
    fn named(&self, before: &Register) -> Register {
        match (before.value, self.unseen) {
            (Some((value, None)), Some(revision)) if revision > before.changed => {
                Register { value: Some((value, Some(revision))), changed: revision }
            }
            _ => *before,
        }
    }

    /// Revisions only rise.
    fn change(&self, before: &Register) -> Option<Register> {
        let rises = self.revision.is_none_or(|revision| revision > before.changed);
        let writes = self.operation.writes_value();
        rises.then(|| Register {
            value: writes.then_some((self.operation.number, self.revision)),
            changed: self.revision.unwrap_or(before.changed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    const FINAL_US: u64 = 1_000;

    fn operation(number: u64, times: (u64, u64), request: Request, end: End) -> Operation {
        let (called_us, returned_us) = times;
        Operation {
            number,
            process: number,
            node: NodeId(1),
            key: 0,
            request,
            called_us,
            returned_us,
            end,
        }
    }

    /// Two writes, one unknown, one swap, a delete, a create, and reads between them.
    fn history() -> Vec<Operation> {
        vec![
            operation(1, (0, 10), Request::Put, End::Stored(5)),
            operation(2, (20, 30), Request::Put, End::Stored(6)),
            operation(3, (32, 38), Request::Get, End::Found(Some((2, 6)))),
            operation(4, (40, 90), Request::Put, End::Unknown),
            operation(5, (50, 60), Request::Swap(5), End::Mismatch(Some(6))),
            operation(6, (100, 110), Request::Swap(6), End::Stored(7)),
            operation(7, (120, 130), Request::Get, End::Found(Some((6, 7)))),
            operation(8, (140, 150), Request::Delete, End::Deleted(8)),
            operation(9, (160, 170), Request::Delete, End::Absent),
            operation(10, (180, 190), Request::Create, End::Stored(9)),
            operation(11, (200, 210), Request::Create, End::Mismatch(Some(9))),
            operation(12, (FINAL_US, FINAL_US + 5), Request::Get, End::Found(Some((10, 9)))),
        ]
    }

    fn refused(change: impl FnOnce(&mut Vec<Operation>)) -> Findings {
        let mut history = history();
        change(&mut history);
        let findings = check(&history, FINAL_US);
        assert!(!findings.violations.is_empty(), "it must be refused");
        findings
    }

    #[test]
    fn a_history_of_one_register_passes() {
        let findings = check(&history(), FINAL_US);
        assert_eq!(findings.violations, Vec::<String>::new());
        assert_eq!((findings.checked, findings.keys, findings.lost), (12, 1, 0));
    }

    #[test]
    fn a_lost_acknowledged_write_is_refused() {
        let lost = refused(|history| history[11].end = End::Found(None));
        assert_eq!(lost.lost, 1);
        assert!(lost.violations[0].contains("operation 10"), "{:?}", lost.violations);
        let old = refused(|history| history[11].end = End::Found(Some((6, 7))));
        assert_eq!(old.lost, 1);
    }

    #[test]
    fn a_stale_read_is_refused() {
        refused(|history| history[2].end = End::Found(Some((1, 5))));
        refused(|history| history[6].end = End::Found(Some((2, 6))));
        refused(|history| history[2].end = End::Found(None));
    }

    #[test]
    fn a_value_that_nobody_wrote_or_that_was_refused_is_not_read() {
        refused(|history| history[2].end = End::Found(Some((77, 6))));
        refused(|history| history[1].end = End::Failed);
    }

    #[test]
    fn a_condition_that_did_not_hold_is_refused() {
        refused(|history| history[4].end = End::Stored(7));
        refused(|history| history[10].end = End::Stored(10));
        refused(|history| history[5].end = End::Mismatch(Some(6)));
    }

    #[test]
    fn a_revision_that_falls_or_changes_is_refused() {
        refused(|history| history[5].end = End::Stored(4));
        refused(|history| history[2].end = End::Found(Some((2, 7))));
    }

    #[test]
    fn an_unknown_write_may_be_met_by_its_revision_before_it_is_read() {
        let mut met = history();
        met.truncate(4);
        met.push(operation(20, (100, 110), Request::Swap(6), End::Mismatch(Some(7))));
        met.push(operation(21, (120, 130), Request::Swap(7), End::Stored(8)));
        met.push(operation(22, (140, 150), Request::Get, End::Found(Some((21, 8)))));
        assert_eq!(check(&met, FINAL_US).violations, Vec::<String>::new());
        let mut other = met.clone();
        other[5].request = Request::Swap(9);
        assert!(!check(&other, FINAL_US).violations.is_empty(), "that revision was not there");
        met.remove(3);
        assert!(!check(&met, FINAL_US).violations.is_empty(), "nobody wrote it");
    }

    #[test]
    fn an_unknown_write_may_have_effect_late_or_never() {
        let mut late = history();
        late.truncate(4);
        late.push(operation(20, (500, 510), Request::Get, End::Found(Some((2, 6)))));
        late.push(operation(21, (600, 610), Request::Get, End::Found(Some((4, 9)))));
        assert!(check(&late, FINAL_US).violations.is_empty());
        late.push(operation(22, (700, 710), Request::Get, End::Found(Some((2, 6)))));
        assert!(!check(&late, FINAL_US).violations.is_empty(), "it had effect before");
    }
}
