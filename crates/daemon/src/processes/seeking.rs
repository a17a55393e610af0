//! Looks for the processes that a process's streams wait for: for services that it opens, and for
//! partners that have moved or cannot be reached.
//!
//! The directory is asked at once, and again after pauses that double, for as long as a stream waits.
//! A stream that may still be answered where its partner was last is given some time for that.

use super::sockets::Sockets;
use crate::anchors::Anchors;
use futures_util::future::join_all;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use stream::Sought;
use wire::frame::ResetReason;

/// The first pause between two questions.
const PAUSE: Duration = Duration::from_millis(10);
/// No pause is longer.
const LONGEST: Duration = Duration::from_millis(500);
/// After so long a pause, who has not answered where it was last is asked for too.
const PATIENT: Duration = Duration::from_millis(160);
/// How long the directory may take to tell who offers a service.
const NAMING: Duration = Duration::from_secs(10);

/// Looks for them until no stream waits any more.
pub async fn seek(sockets: Weak<Sockets>, anchors: Arc<Anchors>) {
    let mut pause = Duration::ZERO;
    // Since when somebody is asked for in vain.
    let mut in_vain: HashMap<Sought, Instant> = HashMap::new();
    loop {
        let Some(here) = sockets.upgrade() else {
            return;
        };
        let sought = here.seeking();
        if sought.is_empty() {
            return;
        }
        in_vain.retain(|known, _| sought.iter().any(|(sought, _)| sought == known));
        let asked = sought.into_iter();
        let asked = asked.filter(|(_, lost)| *lost || pause >= PATIENT);
        let answers = asked.map(|(sought, _)| {
            let anchors = anchors.clone();
            async move {
                let answer = anchors.look_for(&sought).await;
                (sought, answer)
            }
        });
        for (sought, answer) in join_all(answers).await {
            match answer {
                Ok(Some(record)) => {
                    let owner = record.claim.owner;
                    if !anchors.is_dead(owner) {
                        in_vain.remove(&sought);
                    } else if has_passed(&mut in_vain, &sought, crate::core::giving_up()) {
                        here.learn(&sought, Err(ResetReason::Unreachable));
                        continue;
                    }
                    let claimed = (record.process, owner, record.claim.epoch);
                    here.learn(&sought, Ok(claimed));
                }
                Ok(None) => here.learn(&sought, Err(unknown(&sought))),
                Err(error) => {
                    tracing::debug!(?sought, %error, "a process is not found yet");
                    let naming = matches!(sought, Sought::Service(_));
                    if naming && has_passed(&mut in_vain, &sought, NAMING) {
                        here.learn(&sought, Err(ResetReason::TimedOut));
                    }
                }
            }
        }
        pause = (pause * 2).clamp(PAUSE, LONGEST);
        tokio::select! {
            () = here.more_sought() => pause = Duration::ZERO,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether it has been so long since this was first asked of somebody.
fn has_passed(since: &mut HashMap<Sought, Instant>, sought: &Sought, long: Duration) -> bool {
    let first = since.entry(sought.clone()).or_insert_with(Instant::now);
    first.elapsed() >= long
}

/// No process is that, or is that any more.
fn unknown(sought: &Sought) -> ResetReason {
    match sought {
        Sought::Service(_) => ResetReason::NotFound,
        // It has ended since it was found.
        Sought::Process(_) => ResetReason::Refused,
    }
}
