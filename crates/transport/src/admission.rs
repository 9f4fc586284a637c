//! Whether the other side of a handshake is who it should be, as far as that can be
//! told without having met it before.

use synod_paxos::NodeId;
use synod_wire::{Facts, Hello, Refusal, RefusalReason, Versions, Welcome};

use crate::settings::Removed;

/// The acceptor's check of a hello; the version that the two speak. That the sender is a
/// member, and fits what was heard of it, is checked with the member at hand.
pub(crate) fn check_hello(own: &Facts, speaks: Versions, hello: &Hello) -> Result<u32, Refusal> {
    let version = check_origin(own, speaks, hello.versions, &hello.facts)?;
    if hello.to != own.node {
        return refuse(
            RefusalReason::Addressee,
            format!(
                "this is {}, not {}: correct the address of {} in the settings of {}",
                own.node, hello.to, hello.to, hello.facts.node
            ),
        );
    }
    if hello.facts.node == own.node {
        return refuse(
            RefusalReason::Member,
            format!(
                "the dialling node says that it is {} as well: each node needs its own id",
                own.node
            ),
        );
    }
    Ok(version)
}

/// The refusal of a node that is not in the configuration: it was never heard of, or it is
/// a member no more.
pub(crate) fn no_member(own: &Facts, node: NodeId, removed: Option<Removed>) -> Refusal {
    if let Some(removed) = removed.filter(|removed| node <= removed.ids_used_upto) {
        let Removed { number, witnesses, .. } = removed;
        let text = format!(
            "{node} is a member no more: it was removed, configuration {number} says. An id is \
             used once; a new node, with a new id, joins with `synod member add`"
        );
        return Refusal { reason: RefusalReason::Removed { number, witnesses }, text };
    }
    let text = format!(
        "{node} is not among the members that {} knows of yet. If it was added, that comes by itself; \
         else add it with `synod member add`, or start it with the settings of a member",
        own.node
    );
    Refusal { reason: RefusalReason::Member, text }
}

/// The dialling side's check of a welcome from where `expected` should be; the version
/// that the two speak.
pub(crate) fn check_welcome(
    own: &Facts,
    speaks: Versions,
    expected: NodeId,
    welcome: &Welcome,
) -> Result<u32, Refusal> {
    let version = check_origin(own, speaks, welcome.versions, &welcome.facts)?;
    if welcome.facts.node != expected {
        return refuse(
            RefusalReason::Addressee,
            format!(
                "{} answers at the address of {expected}: correct the addresses in the settings \
                 of {}",
                welcome.facts.node, own.node
            ),
        );
    }
    Ok(version)
}

fn check_origin(
    own: &Facts,
    speaks: Versions,
    theirs: Versions,
    facts: &Facts,
) -> Result<u32, Refusal> {
    // First of all: what a stranger speaks is nobody's concern here.
    if facts.cluster != own.cluster {
        return refuse(
            RefusalReason::Cluster,
            format!(
                "{} belongs to cluster {:032x} and {} to cluster {:032x}: correct the addresses in \
                 the settings, or the data folder. If both were restored, restore both from the \
                 same file: a restored cluster is known by its id and its backup together",
                facts.node, facts.cluster, own.node, own.cluster
            ),
        );
    }
    let Some(version) = speaks.common(theirs) else {
        let older = if theirs.newest < speaks.newest { facts.node } else { own.node };
        return refuse(
            RefusalReason::Protocol,
            format!(
                "{} speaks {theirs} of the peer protocol and {} {speaks}, and they have none in \
                 common: install a newer release on {older}. A node speaks nothing older than its \
                 setting write_version",
                facts.node, own.node
            ),
        );
    };
    Ok(version)
}

/// Whether both count their quorums alike: two that do not may choose two values for one slot.
/// For who never told this it can't be said.
pub(crate) fn check_founding(own: &Facts, facts: &Facts) -> Result<(), Refusal> {
    if own.founded.zip(facts.founded).is_none_or(|(own, theirs)| own == theirs) {
        return Ok(());
    }
    refuse(
        RefusalReason::Cluster,
        format!(
            "{} and {} were founded with different members, promise_quorum, accept_quorum or \
             alpha: compare these in their settings, and by `synod inspect` what their data \
             folders hold. Make the folder that is wrong anew, with the settings of the \
             others, if its node never took part; if it did, put a node with a new id in its \
             place with `synod member replace`",
            facts.node, own.node
        ),
    )
}

fn refuse<T>(reason: RefusalReason, text: String) -> Result<T, Refusal> {
    Err(Refusal { reason, text })
}
