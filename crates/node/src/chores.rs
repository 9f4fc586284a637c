//! What the leader's node does through the log without being asked: it forgets old
//! revisions. Each chore is a command like a client's, so nothing depends on who does it, how
//! often, or whether it is done twice.

use std::time::Duration;

use synod_api::{Refused, Replica};
use synod_kv::{Command, Operation, Outcome, Revision, Taken};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::replica::Handle;

/// How often it is looked whether something is due: what comes in between is kept too long.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a chore may take. One that failed is due again at the next look.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does the chores for as long as it is let.
pub(crate) async fn run(handle: Handle) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(upto) = handle.compaction_due()
            && handle.leader().is_some_and(|leader| leader.node == handle.node())
        {
            compact(&handle, upto).await;
        }
    }
}

async fn compact(handle: &Handle, upto: Revision) {
    let operation = Operation::Compact { revision: upto };
    let command = Command { idempotency: None, operation };
    let deadline = Instant::now() + PATIENCE;
    // What was sent has no deadline of its own: this one is given up, and the next look asks
    // again.
    let taken = timeout_at(deadline, handle.write(command, deadline)).await;
    match taken.unwrap_or(Err(Refused::Deadline)) {
        Ok(Taken::Applied { outcome: Outcome::Compacted { oldest, .. }, .. }) => {
            tracing::debug!(%oldest, "older revisions are forgotten");
        }
        // Somebody else was faster, or this is not the leader any more.
        other => tracing::debug!(?other, "older revisions were not forgotten"),
    }
}
