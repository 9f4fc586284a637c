//! Evidence that a peer's process is gone.
//!
//! A process that dies takes its listener with it: the kernel closes its
//! connections and refuses new ones. A network that fails, a machine that hangs or
//! a process that is stopped does neither. So a closed connection followed by
//! nothing but refusals is evidence, and everything else is not. It is evidence,
//! not proof (an operator may move a listener), so it only makes a node say early
//! that it hears no live leader; a quorum decides.

use crate::backoff::BURST_DIALS;

/// How a dial ended that did not end in a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DialEnd {
    /// ECONNREFUSED, or the connection was reset before the handshake.
    NobodyListens,
    /// A timeout, another error, an answer that was no welcome.
    Other,
}

/// Watches the dials of one lane.
#[derive(Default, Debug)]
pub(crate) struct Evidence {
    /// Dials since a connection was closed that had finished its handshake, as long
    /// as each of them found nobody.
    found_nobody: Option<u32>,
}

impl Evidence {
    /// A connection that had finished its handshake was closed by the other side.
    pub(crate) fn connection_closed(&mut self) {
        self.found_nobody = Some(0);
    }

    /// A dial found a living peer.
    pub(crate) fn connected(&mut self) {
        self.found_nobody = None;
    }

    /// A dial failed. Says, once for each closed connection, that the peer died.
    pub(crate) fn dial_failed(&mut self, end: DialEnd) -> bool {
        let (DialEnd::NobodyListens, Some(dials)) = (end, self.found_nobody) else {
            self.found_nobody = None;
            return false;
        };
        let complete = dials + 1 == BURST_DIALS;
        self.found_nobody = (!complete).then_some(dials + 1);
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DialEnd::{NobodyListens, Other};

    fn died(evidence: &mut Evidence, ends: &[DialEnd]) -> Vec<bool> {
        ends.iter().map(|end| evidence.dial_failed(*end)).collect()
    }

    #[test]
    fn a_closed_connection_and_a_burst_of_refusals_tell_once() {
        let mut evidence = Evidence::default();
        evidence.connection_closed();
        let told = died(&mut evidence, &[NobodyListens; 20]);
        assert_eq!(told.iter().filter(|told| **told).count(), 1);
        assert!(told[BURST_DIALS as usize - 1]);
    }

    #[test]
    fn refusals_alone_are_no_evidence() {
        let mut evidence = Evidence::default();
        assert_eq!(died(&mut evidence, &[NobodyListens; 20]), [false; 20]);
    }

    #[test]
    fn one_other_failure_spoils_the_evidence_of_that_connection() {
        for place in 0..BURST_DIALS as usize {
            let mut evidence = Evidence::default();
            evidence.connection_closed();
            let mut ends = [NobodyListens; 20];
            ends[place] = Other;
            assert_eq!(died(&mut evidence, &ends), [false; 20], "at {place}");
        }
    }

    #[test]
    fn a_new_connection_starts_anew() {
        let mut evidence = Evidence::default();
        evidence.connection_closed();
        died(&mut evidence, &[NobodyListens; 4]);
        evidence.connected();
        assert_eq!(died(&mut evidence, &[NobodyListens; 5]), [false; 5]);
        evidence.connection_closed();
        assert_eq!(died(&mut evidence, &[NobodyListens; 4]), [false; 4]);
        assert!(evidence.dial_failed(NobodyListens));
    }
}
