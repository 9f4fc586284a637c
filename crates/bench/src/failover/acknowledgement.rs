//! When what was acknowledged to whom, and the gaps in it. All times are
//! microseconds since the load began.

use serde::Serialize;

use crate::latency::quantile;

/// One acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acknowledgement {
    /// When the client had the answer.
    pub(super) acknowledged_us: u64,
    /// How long before that it had sent the request.
    pub(super) latency_us: u32,
    /// Which client, by number.
    pub(super) client: u16,
    /// Which node answered, as an index into the nodes.
    pub(super) node: u16,
}

impl Acknowledgement {
    pub(super) fn sent_us(&self) -> u64 {
        self.acknowledged_us.saturating_sub(self.latency_us.into())
    }
}

/// A span in which nothing was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Silence {
    /// When it began, in microseconds since the load began.
    pub begin_us: u64,
    /// When it ended.
    pub end_us: u64,
}

impl Silence {
    /// How long it was, in milliseconds.
    pub fn ms(&self) -> f64 {
        ms(self.end_us - self.begin_us)
    }

    fn us(self) -> u64 {
        self.end_us - self.begin_us
    }
}

/// What was acknowledged in one short interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bucket {
    /// When the interval begins, in milliseconds.
    pub at_ms: f64,
    /// How many writes were acknowledged in it.
    pub acknowledged: u64,
    /// Their median latency, in milliseconds; none without any.
    pub p50_ms: Option<f64>,
    /// The 99th percentile.
    pub p99_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

/// Those acknowledged after `begin_us` and up to `end_us`. The
/// acknowledgements are in the order of their times, here and below.
pub(super) fn within(
    acknowledgements: &[Acknowledgement],
    begin_us: u64,
    end_us: u64,
) -> &[Acknowledgement] {
    let position = |time| acknowledgements.partition_point(|one| one.acknowledged_us <= time);
    let (first, last) = (position(begin_us), position(end_us));
    &acknowledgements[first..last.max(first)]
}

/// The first acknowledgement of a request sent after `sent_after_us`, by
/// another node than the one taken away.
pub(super) fn first_after(
    acknowledgements: &[Acknowledgement],
    sent_after_us: u64,
    end_us: u64,
    taken_away: u16,
) -> Option<u64> {
    within(acknowledgements, sent_after_us, end_us)
        .iter()
        .find(|one| one.sent_us() > sent_after_us && one.node != taken_away)
        .map(|one| one.acknowledged_us)
}

/// The longest interval that reaches beyond `from_us`, but not `end_us`,
/// without an acknowledgement.
pub(super) fn longest_silence(
    acknowledgements: &[Acknowledgement],
    from_us: u64,
    end_us: u64,
) -> Silence {
    let last_before = within(acknowledgements, 0, from_us).last();
    let mut begin_us = last_before.map_or(from_us, |one| one.acknowledged_us);
    let mut longest = Silence { begin_us, end_us: begin_us };
    let times = within(acknowledgements, from_us, end_us).iter().map(|one| one.acknowledged_us);
    for time in times.chain([end_us]) {
        let silence = Silence { begin_us, end_us: time.max(begin_us) };
        if silence.us() > longest.us() {
            longest = silence;
        }
        begin_us = time;
    }
    longest
}

/// For each client the longest such interval without an acknowledgement to it.
pub(super) fn longest_client_silences(
    acknowledgements: &[Acknowledgement],
    clients: usize,
    from_us: u64,
    end_us: u64,
) -> Vec<u64> {
    let mut begins = vec![from_us; clients];
    let mut longest = vec![0; clients];
    // As for all together, an interval begins with the last acknowledgement
    // before the window, however old that is.
    let mut unseen = clients;
    let mut seen = vec![false; clients];
    for one in within(acknowledgements, 0, from_us).iter().rev() {
        let client = usize::from(one.client);
        if !std::mem::replace(&mut seen[client], true) {
            begins[client] = one.acknowledged_us;
            unseen -= 1;
        }
        if unseen == 0 {
            break;
        }
    }
    for one in within(acknowledgements, from_us, end_us) {
        let client = usize::from(one.client);
        longest[client] = u64::max(longest[client], one.acknowledged_us - begins[client]);
        begins[client] = one.acknowledged_us;
    }
    let ends = longest.iter().zip(&begins);
    ends.map(|(longest, begin)| u64::max(*longest, end_us.saturating_sub(*begin))).collect()
}

/// The acknowledgements between two times in intervals of a width, counted
/// from `origin_us`, which is 0 on the buckets' axis.
pub(super) fn buckets(
    acknowledgements: &[Acknowledgement],
    (begin_us, end_us): (u64, u64),
    width_us: u64,
    origin_us: u64,
) -> Vec<Bucket> {
    let mut rest = acknowledgements;
    rest = &rest[rest.partition_point(|one| one.acknowledged_us < begin_us)..];
    let mut buckets = Vec::new();
    let mut at_us = begin_us;
    while at_us < end_us {
        let count = rest.partition_point(|one| one.acknowledged_us < at_us + width_us);
        let (these, later) = rest.split_at(count);
        rest = later;
        let at_ms = if at_us >= origin_us { ms(at_us - origin_us) } else { -ms(origin_us - at_us) };
        let latencies = sorted_latencies_ms(these);
        buckets.push(Bucket {
            at_ms,
            acknowledged: count as u64,
            p50_ms: quantile(&latencies, 0.5),
            p99_ms: quantile(&latencies, 0.99),
            max_ms: latencies.last().copied(),
        });
        at_us += width_us;
    }
    buckets
}

pub(super) fn sorted_latencies_ms(acknowledgements: &[Acknowledgement]) -> Vec<f64> {
    let mut latencies: Vec<u32> = acknowledgements.iter().map(|one| one.latency_us).collect();
    latencies.sort_unstable();
    latencies.into_iter().map(|latency_us| ms(latency_us.into())).collect()
}

pub(super) fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(acknowledged_us: u64, latency_us: u32, client: u16, node: u16) -> Acknowledgement {
        Acknowledgement { acknowledged_us, latency_us, client, node }
    }

    /// Two clients; node 0 is taken away at 1000. Client 0 sees answers at 400
    /// 900 (node 0), 1050 (sent before), 1900; client 1 at 950, 1700, 2100.
    fn example() -> Vec<Acknowledgement> {
        vec![
            at(400, 100, 0, 0),
            at(900, 100, 0, 0),
            at(950, 100, 1, 1),
            at(1050, 120, 0, 0),
            at(1700, 730, 1, 1),
            at(1900, 100, 0, 2),
            at(2100, 100, 1, 1),
        ]
    }

    #[test]
    fn only_requests_sent_after_the_kill_end_the_outage() {
        // The answer at 1700 is to a request sent at 970.
        assert_eq!(first_after(&example(), 1000, 3000, 0), Some(1900));
        assert_eq!(first_after(&example(), 1000, 1800, 0), None);
        assert_eq!(first_after(&example(), 1000, 3000, 2), Some(2100));
        assert_eq!(first_after(&[], 1000, 3000, 0), None);
    }

    #[test]
    fn the_longest_silence_may_begin_after_the_kill() {
        let silence = longest_silence(&example(), 1000, 2200);
        assert_eq!(silence, Silence { begin_us: 1050, end_us: 1700 });
    }

    #[test]
    fn the_longest_silence_may_begin_before_the_kill_or_last_to_the_end() {
        let acknowledgements = [at(100, 10, 0, 0), at(800, 10, 0, 0), at(900, 10, 0, 0)];
        let silence = longest_silence(&acknowledgements, 500, 1000);
        assert_eq!(silence, Silence { begin_us: 100, end_us: 800 });
        let silence = longest_silence(&acknowledgements, 850, 5000);
        assert_eq!(silence, Silence { begin_us: 900, end_us: 5000 });
        assert_eq!(longest_silence(&[], 10, 30), Silence { begin_us: 10, end_us: 30 });
    }

    #[test]
    fn each_clients_longest_silence_is_its_own() {
        // Client 0: 900..1050, 1050..1900, 1900..2200; client 1: 950..1700,
        // 1700..2100, 2100..2200.
        assert_eq!(longest_client_silences(&example(), 2, 1000, 2200), [850, 750]);
        // One whose last answer is older than the window is long is as silent.
        assert_eq!(longest_client_silences(&example(), 2, 1950, 2000), [100, 300]);
        // A client without any answer is silent throughout.
        assert_eq!(longest_client_silences(&example(), 3, 1000, 2200)[2], 1200);
    }

    #[test]
    fn buckets_hold_each_acknowledgement_once() {
        let buckets = buckets(&example(), (0, 2200), 500, 1000);
        let counts: Vec<_> = buckets.iter().map(|bucket| bucket.acknowledged).collect();
        assert_eq!(counts, [1, 2, 1, 2, 1]);
        let times: Vec<_> = buckets.iter().map(|bucket| bucket.at_ms).collect();
        assert_eq!(times, [-1.0, -0.5, 0.0, 0.5, 1.0]);
        assert_eq!((buckets[3].p50_ms, buckets[3].max_ms), (Some(0.1), Some(0.73)));
    }

    #[test]
    fn an_empty_bucket_has_no_latency() {
        let buckets = buckets(&[], (0, 100), 50, 0);
        assert_eq!(buckets.len(), 2);
        assert_eq!((buckets[1].acknowledged, buckets[1].p99_ms), (0, None));
    }
}
