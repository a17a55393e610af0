//! Answers on behalf of an end that is not here, so that the other end does not wait for ever.

use wire::Epoch;
use wire::frame::{Body, End, ResetReason, StreamFrame};

/// What an anchor's node answers to a frame for a stream that it does not have (any more).
pub fn answer_for_missing_anchor(frame: &StreamFrame) -> Option<StreamFrame> {
    let body = Body::Reset(ResetReason::ClientGone);
    (frame.to == End::Anchor && deserves_answer(&frame.body))
        .then(|| answer(frame, frame.epoch, body))
}

/// What a node answers to a frame for a process that it does not run. `epoch` is the latest one that
/// it knows of, so that the anchor can tell whether this is news.
pub fn answer_for_missing_process(frame: &StreamFrame, epoch: Epoch) -> Option<StreamFrame> {
    (frame.to == End::Process && deserves_answer(&frame.body))
        .then(|| answer(frame, epoch, Body::NotHere))
}

/// Whether the sender of such a frame waits for something.
pub(crate) fn deserves_answer(body: &Body) -> bool {
    match body {
        Body::Open { .. }
        | Body::Data { .. }
        | Body::Ack { .. }
        | Body::Fin { .. }
        | Body::Standby { .. }
        | Body::Resume { .. }
        | Body::Resumed { .. } => true,
        Body::Reset(_) | Body::StandbyAck { .. } | Body::NotHere => false,
    }
}

fn answer(frame: &StreamFrame, epoch: Epoch, body: Body) -> StreamFrame {
    StreamFrame {
        process: frame.process,
        stream: frame.stream,
        to: match frame.to {
            End::Anchor => End::Process,
            End::Process => End::Anchor,
        },
        epoch,
        body,
    }
}
