//! What this node does about a peer whose state is another one.

use std::sync::mpsc::Sender;

use synod_host::{Disagreement, Host};
use synod_paxos::Slot;

use crate::marks::difference_text;
use crate::shared::OwnerView;
use crate::upkeep::UpkeepTask;

/// Has it kept that what came from a peer was found right: the next life need not find out
/// anew. `told` is what was kept last.
pub(crate) fn tell_found_right(host: &Host, told: &mut Slot, upkeep: &Sender<UpkeepTask>) {
    let slot = host.state_found_right_upto();
    if slot > *told {
        *told = slot;
        let _ = upkeep.send(UpkeepTask::FoundRight { slot });
    }
}

/// Tells a difference to a peer's state, and that it was the peer which was wrong. Both are
/// kept on the disk: a restart is no proof of anything.
pub(crate) fn tell(host: &Host, view: &OwnerView, upkeep: &Sender<UpkeepTask>) {
    match (host.disagreement(), view.differs_after()) {
        (Some(found), None) => {
            let Disagreement { slot, peer, mine, theirs } = found;
            let reason = format!(
                "the state differs from that of node {peer} after slot {slot}: {mine:016x} here, \
                 {theirs:016x} there; one of the two is damaged, so this node gives its state to \
                 nobody"
            );
            tracing::error!("{reason}");
            view.set_differs_after(Some(slot));
            // A thread that is gone has reported why; the node is ending.
            let text = difference_text(slot, &reason);
            let _ = upkeep.send(UpkeepTask::Differs { text: Some(text) });
        }
        (None, Some(slot)) if host.agreed_upto() >= slot => {
            tracing::info!(%slot, "most voters have this node's state: it is the right one");
            view.set_differs_after(None);
            let _ = upkeep.send(UpkeepTask::Differs { text: None });
        }
        _ => {}
    }
}
