//! Whether the other side of a handshake is who it should be, as far as that can be
//! told without having met it before.

use synod_paxos::NodeId;
use synod_wire::handshake::PROTOCOL_VERSION;
use synod_wire::{Facts, Hello, Refusal, RefusalReason, Welcome};

/// The acceptor's check of a hello. That the sender is a member, and fits what was
/// heard of it, is checked with the member at hand.
pub(crate) fn check_hello(own: &Facts, hello: &Hello) -> Result<(), Refusal> {
    check_origin(own, hello.protocol, &hello.facts)?;
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
    Ok(())
}

/// The refusal of a node that is not in the configuration.
pub(crate) fn unknown_member(own: &Facts, node: NodeId) -> Refusal {
    let text = format!(
        "{node} is no member of the cluster as {} knows it: add it to the cluster, or start it \
         with the settings of a member",
        own.node
    );
    Refusal { reason: RefusalReason::Member, text }
}

/// The dialling side's check of a welcome from where `expected` should be.
pub(crate) fn check_welcome(
    own: &Facts,
    expected: NodeId,
    welcome: &Welcome,
) -> Result<(), Refusal> {
    check_origin(own, welcome.protocol, &welcome.facts)?;
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
    Ok(())
}

fn check_origin(own: &Facts, protocol: u32, facts: &Facts) -> Result<(), Refusal> {
    if protocol != PROTOCOL_VERSION {
        return refuse(
            RefusalReason::Protocol,
            format!(
                "{} speaks version {protocol} of the peer protocol and {} version \
                 {PROTOCOL_VERSION}: install the same release on both",
                facts.node, own.node
            ),
        );
    }
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
    Ok(())
}

fn refuse(reason: RefusalReason, text: String) -> Result<(), Refusal> {
    Err(Refusal { reason, text })
}
