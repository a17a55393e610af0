//! Answers on behalf of an end that is not here, so that the other end does not wait for ever.

use crate::end::other;
use wire::frame::{Body, End, ResetReason, StreamFrame};
use wire::{Epoch, NodeId};

/// What an anchor's node answers to a frame for a stream that it does not have (any more).
pub fn answer_for_missing_anchor(frame: &StreamFrame) -> Option<StreamFrame> {
    let body = Body::Reset(ResetReason::ClientGone);
    (frame.to == End::Anchor && deserves_answer(&frame.body))
        .then(|| answer(frame, frame.epoch, body))
}

/// What a node answers to a frame for a process that it does not run. `epoch` is the latest one that
/// it knows of, so that the other end can tell whether this is news; `went` is where the process went
/// under that epoch, if it went from here.
pub fn answer_for_missing_process(
    frame: &StreamFrame,
    epoch: Epoch,
    went: Option<NodeId>,
) -> Option<StreamFrame> {
    let body = match (frame.to, went) {
        (End::Anchor, _) => return None,
        (End::Partner { .. }, Some(to)) => Body::Moved { to },
        (End::Partner { .. } | End::Process, _) => Body::NotHere,
    };
    deserves_answer(&frame.body).then(|| answer(frame, epoch, body))
}

/// Whether the sender of such a frame waits for something.
pub(crate) fn deserves_answer(body: &Body) -> bool {
    match body {
        Body::Open { .. }
        | Body::Call { .. }
        | Body::Data { .. }
        | Body::Ack { .. }
        | Body::Fin { .. }
        | Body::Standby { .. }
        | Body::Resume { .. }
        | Body::Resumed { .. } => true,
        Body::Reset(_) | Body::StandbyAck { .. } | Body::NotHere | Body::Moved { .. } => false,
    }
}

/// An answer of the end that the frame is for, whose process is owned under `epoch`.
pub(crate) fn answer(frame: &StreamFrame, epoch: Epoch, body: Body) -> StreamFrame {
    let (process, stream, to, epoch) = match frame.to {
        End::Anchor => (frame.process, frame.stream, End::Process, epoch),
        End::Process => (frame.process, frame.stream, End::Anchor, epoch),
        End::Partner { from, epoch: its } => {
            let to = End::Partner {
                from: frame.process,
                epoch,
            };
            (from, other(frame.stream), to, its)
        }
    };
    StreamFrame {
        process,
        stream,
        to,
        epoch,
        body,
    }
}
