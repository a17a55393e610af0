//! Keeping a link to a member up: dialled again whenever it is down, with bounded backoff.
//!
//! Both sides keep the same link, so both may dial at once. The side with the lower id dials at
//! once, the other only after a grace; where two links come about nevertheless, [`replaces`] says
//! on both sides which one stays.

use super::transport::Secured;
use super::{Dialler, OpenError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use wire::NodeId;
use wire::link::{Hello, LinkKind};

const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
/// How long the side with the higher id leaves the dialling to the other.
const GRACE: Duration = Duration::from_millis(700);
/// How long a fresh link may take to be taken into use, before it is dialled again.
const SETTLING: Duration = Duration::from_secs(1);

/// A link as far as the choice between two of them goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who dialled it.
    pub dialled_by: NodeId,
    /// The peer's incarnation.
    pub incarnation: u64,
}

/// Whether a new link replaces the one that is there. `lower` is the lower of the two node ids.
///
/// A peer that was started anew has no use for a link to its earlier life. Who dials again has
/// found the old link broken. Of two that were dialled from both sides at once the one of the
/// lower id stays.
pub fn replaces(new: Standing, old: Standing, lower: NodeId) -> bool {
    if new.incarnation != old.incarnation {
        return new.incarnation > old.incarnation;
    }
    new.dialled_by == old.dialled_by || new.dialled_by == lower
}

/// Dials `peer` whenever the link is down, until `up` is closed. What comes about goes to
/// `opened`, which takes it into use or not, and sets `up` accordingly.
pub async fn keep(
    dialler: Dialler,
    peer: NodeId,
    kind: LinkKind,
    mut up: watch::Receiver<bool>,
    opened: impl Fn(Secured, Hello),
) {
    let grace = if dialler.identity.node() < peer {
        Duration::ZERO
    } else {
        GRACE
    };
    let mut backoff = FIRST_BACKOFF;
    let mut said = false;
    loop {
        if up.wait_for(|up| !up).await.is_err() {
            return;
        }
        // The other side may be faster, then there is nothing to do.
        match timeout(grace, up.wait_for(|up| *up)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        match dialler.open(peer, kind).await {
            Ok((stream, hello)) => {
                backoff = FIRST_BACKOFF;
                said = false;
                opened(stream, hello);
                let _ = timeout(SETTLING, up.wait_for(|up| *up)).await;
            }
            Err(error) => {
                if matches!(error, OpenError::Forgotten { .. })
                    && kind == LinkKind::Control
                    && !said
                {
                    tracing::warn!(%error, "this node is no member of its fleet any more");
                    said = true;
                }
                tracing::debug!(node = %peer.short(), ?kind, %error, "cannot link");
                tokio::select! {
                    () = sleep(backoff) => {}
                    _ = up.wait_for(|up| *up) => {}
                }
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_two_links_keep_the_same_one() {
        let (low, high) = (NodeId([1; 32]), NodeId([2; 32]));
        let standing = |dialled_by| Standing {
            dialled_by,
            incarnation: 1,
        };
        // Whatever the order in which the two come about.
        assert!(replaces(standing(low), standing(high), low));
        assert!(!replaces(standing(high), standing(low), low));
    }

    #[test]
    fn a_redialled_link_replaces_the_broken_one() {
        let (low, high) = (NodeId([1; 32]), NodeId([2; 32]));
        for dialled_by in [low, high] {
            let standing = Standing {
                dialled_by,
                incarnation: 1,
            };
            assert!(replaces(standing, standing, low));
        }
    }

    #[test]
    fn a_link_to_a_later_life_of_the_peer_always_replaces() {
        let (low, high) = (NodeId([1; 32]), NodeId([2; 32]));
        let standing = |dialled_by, incarnation| Standing {
            dialled_by,
            incarnation,
        };
        assert!(replaces(standing(high, 2), standing(low, 1), low));
        assert!(!replaces(standing(low, 1), standing(high, 2), low));
    }
}
