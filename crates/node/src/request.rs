//! Clients' requests on their way from the HTTP thread to the owner, and their
//! answers on the way back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use synod_api::{MemberChange, Refused};
use synod_kv::Taken;
use synod_paxos::{NodeId, Time};
use tokio::sync::{mpsc, oneshot};

use crate::membership::ChangeReply;
use crate::shared::Shared;

/// Who waits for a write.
pub(crate) type WriteReply = oneshot::Sender<Result<Taken, Refused>>;
/// Who waits for a read.
pub(crate) type ReadReply = oneshot::Sender<Result<(), Refused>>;

/// What a client wants of the owner.
#[derive(Debug)]
pub(crate) enum Request {
    Write {
        command: Bytes,
        deadline: Time,
        reply: WriteReply,
    },
    Read {
        deadline: Time,
        reply: ReadReply,
    },
    /// Somebody else shall lead. There is no answer: what comes of it is seen.
    HandOver {
        to: Option<NodeId>,
    },
    /// Other members.
    Change {
        change: MemberChange,
        reply: ChangeReply,
    },
}

/// What a client gets.
#[derive(Debug)]
pub(crate) enum Answer {
    Write(WriteReply, Result<Taken, Refused>),
    Read(ReadReply, Result<(), Refused>),
}

impl Answer {
    fn deliver(self) {
        // Nobody waits any more when the client went away or its time was over.
        match self {
            Answer::Write(reply, result) => drop(reply.send(result)),
            Answer::Read(reply, result) => drop(reply.send(result)),
        }
    }
}

/// Sends answers to the HTTP thread. All answers of one step wake it once: to
/// complete them one by one from here would be a system call each.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    sender: mpsc::UnboundedSender<Vec<Answer>>,
    shared: Arc<Shared>,
}

/// The HTTP thread's end. Its length is bounded by the requests that wait.
pub(crate) type AnswerQueue = mpsc::UnboundedReceiver<Vec<Answer>>;

impl Answers {
    pub(crate) fn new(shared: Arc<Shared>) -> (Answers, AnswerQueue) {
        let (sender, queue) = mpsc::unbounded_channel();
        (Answers { sender, shared }, queue)
    }

    /// Sends all of `answers`, which is empty afterwards.
    pub(crate) fn send(&self, answers: &mut Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        let refused = answers
            .iter()
            .filter(|answer| matches!(answer, Answer::Write(_, Err(_)) | Answer::Read(_, Err(_))));
        let refused = refused.count() as u64;
        if refused > 0 {
            self.shared.owner.refused.fetch_add(refused, Relaxed);
        }
        // The HTTP thread ends before this one; then nobody waits.
        let _ = self.sender.send(std::mem::take(answers));
    }
}

/// Completes answers on the thread where their clients wait, until nobody sends
/// any more.
pub(crate) async fn deliver(mut queue: AnswerQueue) {
    while let Some(answers) = queue.recv().await {
        answers.into_iter().for_each(Answer::deliver);
    }
}
