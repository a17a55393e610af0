//! Questions to the directory, asked until they are answered.
//!
//! A question has a number; asking again with the same number is one question. It is asked again
//! when the link to the directory's node is remade and whenever `retry` has passed. Numbers of a
//! node's later lives differ from those of its earlier ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use wire::directory::{Answer, Operation};

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// So long; then the answer is `None`, and whether the operation was done is not known.
    For(Duration),
    /// Until there is an answer, be it a refusal.
    UntilAnswered,
    /// Until there is an answer other than a refusal.
    UntilDone,
}

#[derive(Debug)]
pub(crate) enum Output<P> {
    /// Bring this to the directory if that is possible now.
    Ask { request: u64, operation: Operation },
    /// The end of a question.
    Answered { purpose: P, answer: Option<Answer> },
}

#[derive(Debug)]
struct Pending<P> {
    operation: Operation,
    purpose: P,
    patience: Patience,
    give_up: Option<Duration>,
    due: Duration,
}

/// The questions in flight; `P` says what an answer is for.
#[derive(Debug)]
pub(crate) struct Client<P> {
    retry: Duration,
    next: u64,
    pending: BTreeMap<u64, Pending<P>>,
    /// When each is due, to be asked again or given up.
    due: BTreeSet<(Duration, u64)>,
    outputs: VecDeque<Output<P>>,
}

impl<P> Client<P> {
    pub(crate) fn new(incarnation: u64, retry: Duration) -> Self {
        Self {
            retry,
            next: incarnation.wrapping_shl(24),
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Questions in flight.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn ask(
        &mut self,
        now: Duration,
        operation: Operation,
        purpose: P,
        patience: Patience,
    ) {
        let give_up = match patience {
            Patience::For(limit) => Some(now + limit),
            Patience::UntilAnswered | Patience::UntilDone => None,
        };
        let request = self.add(Pending {
            operation,
            purpose,
            patience,
            give_up,
            due: now,
        });
        self.send(now, request);
    }

    /// The directory's node is linked again.
    pub(crate) fn handle_link_up(&mut self, now: Duration) {
        let requests: Vec<u64> = self.pending.keys().copied().collect();
        for request in requests {
            self.send(now, request);
        }
    }

    pub(crate) fn handle_answer(&mut self, now: Duration, request: u64, answer: Answer) {
        let Some(pending) = self.take(request) else {
            return;
        };
        let refused = matches!(answer, Answer::Failed(_));
        if refused && pending.patience == Patience::UntilDone {
            let due = now + self.retry;
            self.add(Pending { due, ..pending });
        } else {
            self.outputs.push_back(Output::Answered {
                purpose: pending.purpose,
                answer: Some(answer),
            });
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        while let Some((due, request)) = self.due.first().copied()
            && due <= now
        {
            let given_up = self.pending.get(&request).and_then(|p| p.give_up);
            if given_up.is_some_and(|at| at <= now) {
                if let Some(pending) = self.take(request) {
                    self.outputs.push_back(Output::Answered {
                        purpose: pending.purpose,
                        answer: None,
                    });
                }
            } else {
                self.send(now, request);
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output<P>> {
        self.outputs.pop_front()
    }

    fn add(&mut self, pending: Pending<P>) -> u64 {
        let request = self.next;
        self.next = self.next.wrapping_add(1);
        self.due.insert((pending.due, request));
        self.pending.insert(request, pending);
        request
    }

    fn take(&mut self, request: u64) -> Option<Pending<P>> {
        let pending = self.pending.remove(&request)?;
        self.due.remove(&(pending.due, request));
        Some(pending)
    }

    fn send(&mut self, now: Duration, request: u64) {
        let Some(pending) = self.pending.get_mut(&request) else {
            return;
        };
        self.due.remove(&(pending.due, request));
        let again = now + self.retry;
        pending.due = pending.give_up.map_or(again, |at| at.min(again));
        self.due.insert((pending.due, request));
        self.outputs.push_back(Output::Ask {
            request,
            operation: pending.operation.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ProcessId;

    const RETRY: Duration = Duration::from_millis(500);

    fn asked(client: &mut Client<&'static str>) -> Vec<u64> {
        let mut requests = Vec::new();
        while let Some(Output::Ask { request, .. }) = client.poll_output() {
            requests.push(request);
        }
        requests
    }

    fn get() -> Operation {
        Operation::Get(ProcessId(1))
    }

    #[test]
    fn a_question_is_asked_again_under_its_number_until_answered() {
        let mut client = Client::new(1, RETRY);
        client.ask(Duration::ZERO, get(), "it", Patience::UntilAnswered);
        let first = asked(&mut client);
        assert_eq!(client.poll_timeout(), Some(RETRY));
        client.handle_timeout(RETRY);
        assert_eq!(asked(&mut client), first);
        client.handle_link_up(RETRY);
        assert_eq!(asked(&mut client), first);
        client.handle_answer(RETRY, first[0], Answer::Unknown);
        assert!(matches!(
            client.poll_output(),
            Some(Output::Answered {
                purpose: "it",
                answer: Some(Answer::Unknown)
            })
        ));
        assert_eq!(client.poll_timeout(), None);
        client.handle_answer(RETRY, first[0], Answer::Unknown);
        assert!(client.poll_output().is_none(), "answered twice");
    }

    #[test]
    fn patience_ends_with_no_answer() {
        let mut client = Client::new(1, RETRY);
        client.ask(
            Duration::ZERO,
            get(),
            "it",
            Patience::For(Duration::from_millis(700)),
        );
        asked(&mut client);
        client.handle_timeout(RETRY);
        assert_eq!(asked(&mut client).len(), 1);
        assert_eq!(client.poll_timeout(), Some(Duration::from_millis(700)));
        client.handle_timeout(Duration::from_millis(700));
        assert!(matches!(
            client.poll_output(),
            Some(Output::Answered { answer: None, .. })
        ));
        assert_eq!(client.len(), 0);
    }

    #[test]
    fn what_must_be_done_is_asked_anew_after_a_refusal() {
        let mut client = Client::new(1, RETRY);
        client.ask(Duration::ZERO, get(), "it", Patience::UntilDone);
        let first = asked(&mut client);
        client.handle_answer(Duration::ZERO, first[0], Answer::Failed("full".to_owned()));
        assert!(asked(&mut client).is_empty());
        client.handle_timeout(RETRY);
        let second = asked(&mut client);
        assert_eq!(second.len(), 1);
        assert_ne!(second, first, "the refusal would be remembered");
    }
}
