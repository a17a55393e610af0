//! Becoming a member: the joiner proves that it knows the secret in the ticket.

use super::accept::Accepted;
use super::tally::Tally;
use super::transport::{PATIENCE, read_frame};
use super::{Dialler, OpenError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use wire::NodeId;
use wire::control::Member;
use wire::link::{Join, JoinReply, LinkKind, MAX_CONTROL, Secret, decode, write_frame};
use wire::name::{check_name, printable};
use wire::ticket::Ticket;

/// How long the host may take to admit: the directory's store writes it down first.
const ADMISSION: Duration = Duration::from_secs(10);
const MAX_JOIN: usize = 4096;
const MAX_TEXT: usize = 255;
/// Characters of a refusal that are shown.
const MAX_REASON: usize = 400;

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The node named in the ticket cannot be reached at any of its addresses.
    #[error("cannot reach the node named in the ticket: {0}")]
    Unreachable(OpenError),
    /// The ticket names no address.
    #[error("the ticket names no address; make a new one with `limosa up`")]
    NoAddress,
    /// It said no.
    #[error("the fleet refused: {0}")]
    Refused(String),
    /// The connection broke, or the answer makes no sense.
    #[error("the node named in the ticket gave no answer that makes sense: {0}")]
    NoAnswer(String),
}

/// Asks the node in the ticket for membership. Returns all members and the directory's node.
pub async fn join(
    dialler: &Dialler,
    ticket: &Ticket,
    me: Member,
) -> Result<(Vec<Member>, NodeId), JoinError> {
    let mut failure = JoinError::NoAddress;
    for address in ticket.addresses() {
        match dialler
            .open_at(address, ticket.node(), LinkKind::Join)
            .await
        {
            Ok((mut stream, _)) => {
                let no_answer = |error: &dyn std::fmt::Display| {
                    JoinError::NoAnswer(format!("{address}: {error}"))
                };
                let request = Join {
                    proof: ticket.secret().prove(me.node, ticket.node()),
                    member: me,
                };
                let mut frame = Vec::new();
                write_frame(&request, MAX_JOIN, &mut frame).map_err(|error| no_answer(&error))?;
                let exchange = async {
                    stream.write_all(&frame).await?;
                    stream.flush().await?;
                    read_frame(&mut stream, MAX_CONTROL).await
                };
                let message = timeout(ADMISSION, exchange)
                    .await
                    .map_err(|_| no_answer(&"too late"))?
                    .map_err(|error| no_answer(&error))?
                    .ok_or_else(|| no_answer(&"it closed the connection"))?;
                return match decode(&message).map_err(|error| no_answer(&error))? {
                    JoinReply::Accepted { members, directory } => Ok((members, directory)),
                    JoinReply::Refused { reason } => {
                        Err(JoinError::Refused(printable(&reason, MAX_REASON)))
                    }
                };
            }
            Err(error) => failure = JoinError::Unreachable(error),
        }
    }
    Err(failure)
}

/// Answers one who wants to join. `secret` is set at the directory's node; `admit` makes the
/// member known and returns all of them, or says why not.
pub async fn answer<F: Future<Output = Result<Vec<Member>, String>>>(
    link: Accepted,
    secret: Option<Secret>,
    directory: NodeId,
    host: NodeId,
    admit: impl FnOnce(Member) -> F,
) {
    let Accepted {
        peer,
        mut stream,
        from,
        place,
        ..
    } = link;
    let verdict = async {
        let message = tokio::select! {
            message = timeout(PATIENCE, read_frame(&mut stream, MAX_JOIN)) => message,
            () = place.wanted() => {
                return Err("too many others want to join and say nothing either; try again".to_owned());
            }
        };
        let message = message
            .map_err(|_| "no request came".to_owned())?
            .map_err(|error| error.to_string())?
            .ok_or("no request came")?;
        let request: Join = decode(&message).map_err(|error| error.to_string())?;
        let secret = secret.ok_or("this node does not keep the directory; use its ticket")?;
        if !secret.verify(&request.proof, peer, host) {
            return Err("the ticket is not of this fleet, or no longer valid".to_owned());
        }
        // Whoever knows the secret is as good as a member, and does not keep others waiting.
        place.give_back();
        let member = request.member;
        if member.node != peer {
            return Err("the request names another node than its sender".to_owned());
        }
        check_name(&member.name).map_err(|error| format!("the node's name: {error}"))?;
        let control = member.address.chars().any(char::is_control);
        if control || !(1..=MAX_TEXT).contains(&member.address.len()) {
            return Err("the node's address is empty, too long, or none".to_owned());
        }
        let name = member.name.clone();
        let members = admit(member).await?;
        Ok((name, members))
    };
    let reply = match verdict.await {
        Ok((name, members)) => {
            tracing::info!(%from, node = %peer.short(), name, "a node joins");
            JoinReply::Accepted { members, directory }
        }
        Err(reason) => {
            static REFUSED: Tally = Tally::new();
            if let Some(others) = REFUSED.due(Instant::now()) {
                tracing::warn!(%from, node = %peer.short(), reason, others, "a node may not join");
            }
            JoinReply::Refused { reason }
        }
    };
    let mut frame = Vec::new();
    if let Err(error) = write_frame(&reply, MAX_CONTROL, &mut frame) {
        tracing::error!(%error, "the list of members is too long to be sent");
        return;
    }
    let send = async {
        stream.write_all(&frame).await?;
        stream.shutdown().await
    };
    let _ = timeout(PATIENCE, send).await;
}
