//! Ends of streams that the process itself opens, and of those that another process opens to it.

use super::partner::Partner;
use super::receiving::Receiving;
use super::sending::Sending;
use super::{End, Opening, Phase, Role, shortened};
use crate::Config;
use wire::snapshot::Service;
use wire::{Epoch, NodeId, ProcessId, StreamId};

impl End {
    /// Both ends of a stream that the process opens to somewhere outside, by way of this node, which
    /// is its anchor from now on: the process's and the anchor's. Nothing can be sent to the anchor
    /// before [`End::connected`] is said there.
    pub(crate) fn dial(
        process: ProcessId,
        stream: StreamId,
        me: NodeId,
        epoch: Epoch,
        to: &str,
        config: &Config,
    ) -> (End, End) {
        let mut receiving = Receiving::new(config.receive_bytes);
        let (_, window) = receiving.tell();
        let ends = [
            (Role::Process, Sending::new(config.send_bytes, 0), receiving),
            (
                Role::Anchor,
                Sending::new(config.send_bytes, window),
                Receiving::new(0),
            ),
        ];
        let [mine, anchor] = ends.map(|(role, sending, receiving)| {
            let mut end = End::new(process, stream, role, sending, receiving, config);
            end.me = me;
            end.peer = me;
            end.epoch = epoch;
            end.client = shortened(to);
            end
        });
        (mine, anchor)
    }

    /// The process's end of a stream that it opens to a service, whose process is to be found; `to`
    /// says what it has opened, as text.
    pub(crate) fn call(
        process: ProcessId,
        stream: StreamId,
        me: NodeId,
        epoch: Epoch,
        service: Service,
        to: &str,
        config: &Config,
    ) -> End {
        let sending = Sending::new(config.send_bytes, 0);
        let receiving = Receiving::new(config.receive_bytes);
        let role = Role::Partner;
        let mut end = End::new(process, stream, role, sending, receiving, config);
        end.me = me;
        end.epoch = epoch;
        end.client = shortened(to);
        end.phase = Phase::Opening;
        end.opening = Some(Opening::Call(service));
        end.partner.lost = true;
        end
    }

    /// The process's end of a stream that another process opens, which is at the node `from`.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is one field of what is opened"
    )]
    pub(crate) fn called(
        process: ProcessId,
        stream: StreamId,
        me: NodeId,
        epoch: Epoch,
        from: NodeId,
        partner: (ProcessId, Epoch),
        client: &str,
        window: u64,
        config: &Config,
    ) -> End {
        let sending = Sending::new(config.send_bytes, window);
        let receiving = Receiving::new(config.receive_bytes);
        let role = Role::Partner;
        let mut end = End::new(process, stream, role, sending, receiving, config);
        end.me = me;
        end.epoch = epoch;
        end.peer = from;
        end.partner = Partner::of(partner);
        end.client = shortened(client);
        // The answer to the call: how much may be sent.
        end.receiving.demand();
        end
    }
}
