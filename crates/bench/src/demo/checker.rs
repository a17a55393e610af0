//! One connection's bookkeeping: requests go out, answers come back in their order, each is checked.
//!
//! ```text
//!   ask() -> waiting: [oldest .. newest] -> hear(bytes) -> right | wrong
//!                                        -> finish()    -> lost
//! ```
//! A connection that ended, or on which an answer's end cannot be found, is broken for good: the
//! clients of the demo never reconnect and never retry.

use super::downtime::Probe;
use super::ledger::Transfer;
use super::protocol::{Expected, Protocol, Wrong};
use std::collections::VecDeque;
use std::time::Duration;

/// Wrong answers that are kept in words; the others are counted.
const EXAMPLES: usize = 5;

/// What became of all requests of a connection.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests sent.
    pub requests: u64,
    /// Requests without an answer.
    pub lost: u64,
    /// Answers that are not what they must be, or that no one asked for.
    pub wrong: u64,
    /// Connections that ended or became unusable before the client was done: a client that wanted
    /// to go on would have had to connect anew.
    pub reconnects: u64,
    /// When each request was sent, and when its answer was there, in order.
    pub timings: Vec<Probe>,
    /// Transfers that were acknowledged.
    pub transfers: Vec<Transfer>,
    /// Some of what went wrong, in words.
    pub examples: Vec<String>,
}

impl Tally {
    /// Adds another connection's.
    pub fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.reconnects += other.reconnects;
        self.timings.extend(other.timings);
        self.transfers.extend(other.transfers);
        for example in other.examples {
            self.keep(example);
        }
    }

    /// Keeps an example of what went wrong.
    pub fn keep(&mut self, example: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(example);
        }
    }
}

struct Waiting {
    since: Duration,
    expected: Expected,
}

/// See the module.
pub struct Checker {
    protocol: Protocol,
    random: fastrand::Rng,
    next_id: u64,
    id_step: u64,
    waiting: VecDeque<Waiting>,
    buffer: Vec<u8>,
    last_seq: u64,
    broken: bool,
    tally: Tally,
}

impl Checker {
    /// Of connection number `connection` of `connections`: no two use the same request ids.
    pub fn new(protocol: Protocol, connection: u64, connections: u64) -> Checker {
        Checker {
            protocol,
            random: fastrand::Rng::with_seed(connection),
            next_id: connection,
            id_step: connections.max(1),
            waiting: VecDeque::new(),
            buffer: Vec::new(),
            last_seq: 0,
            broken: false,
            tally: Tally::default(),
        }
    }

    /// Requests without an answer yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether the connection cannot be used any more.
    pub fn broken(&self) -> bool {
        self.broken
    }

    /// Requests that were answered, rightly or wrongly.
    pub fn answered(&self) -> u64 {
        self.tally.timings.len() as u64
    }

    /// Appends a client's next request to `out`.
    pub fn ask(&mut self, now: Duration, out: &mut Vec<u8>) {
        let id = self.id();
        let expected = self.protocol.request(&mut self.random, id, out);
        self.sent(now, expected);
    }

    /// Appends a probe, due at `due`, to `out`.
    pub fn probe(&mut self, due: Duration, out: &mut Vec<u8>) {
        let id = self.id();
        let expected = self.protocol.probe(id, out);
        self.sent(due, expected);
    }

    fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += self.id_step;
        id
    }

    fn sent(&mut self, since: Duration, expected: Expected) {
        self.tally.requests += 1;
        self.waiting.push_back(Waiting { since, expected });
    }

    /// Takes bytes that came, and checks all answers that are whole.
    pub fn hear(&mut self, now: Duration, bytes: &[u8]) {
        if self.broken {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        let mut taken = 0;
        loop {
            let rest = self.buffer.get(taken..).unwrap_or_default();
            let Some(oldest) = self.waiting.front() else {
                if !rest.is_empty() {
                    let text = String::from_utf8_lossy(rest.get(..80).unwrap_or(rest));
                    let example = format!("an answer that no one asked for: {text:?}");
                    self.wrong(example);
                    self.fail();
                }
                break;
            };
            let Some((length, judged)) = oldest.expected.hear(rest) else {
                break;
            };
            taken += length;
            self.tally.timings.push(Probe {
                due: oldest.since,
                answered: Some(now),
            });
            self.waiting.pop_front();
            match judged {
                Ok(None) => {}
                Ok(Some(transfer)) => self.acknowledged(transfer),
                Err(Wrong::Answer(why)) => self.wrong(why),
                Err(Wrong::Framing(why)) => {
                    self.wrong(why);
                    self.fail();
                    break;
                }
            }
        }
        self.buffer.drain(..taken.min(self.buffer.len()));
    }

    /// Requests of one connection are carried out in order, so their numbers rise.
    fn acknowledged(&mut self, transfer: Transfer) {
        if transfer.seq <= self.last_seq {
            self.wrong(format!(
                "transfer {} was acknowledged after transfer {}",
                transfer.seq, self.last_seq
            ));
        }
        self.last_seq = transfer.seq;
        self.tally.transfers.push(transfer);
    }

    fn wrong(&mut self, example: String) {
        self.tally.wrong += 1;
        self.tally.keep(example);
    }

    fn fail(&mut self) {
        if !self.broken {
            self.broken = true;
            self.tally.reconnects += 1;
        }
    }

    /// The connection ended although the client had not.
    pub fn ended(&mut self, why: &str) {
        if !self.broken {
            self.tally.keep(format!("the connection ended: {why}"));
        }
        self.fail();
    }

    /// What became of everything. Requests without an answer are lost.
    pub fn finish(mut self) -> Tally {
        self.tally.lost += self.waiting.len() as u64;
        for waiting in self.waiting.drain(..) {
            self.tally.timings.push(Probe {
                due: waiting.since,
                answered: None,
            });
        }
        if !self.buffer.is_empty() && !self.broken {
            let text = String::from_utf8_lossy(&self.buffer).into_owned();
            self.tally
                .keep(format!("half an answer at the end: {text:?}"));
        }
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Bank;
    use super::*;

    const NOW: Duration = Duration::from_millis(1);

    fn answer(body: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    /// What an honest server answers to everything that waits.
    fn honest(checker: &Checker, bank: &mut Bank) -> Vec<Vec<u8>> {
        let line = |waiting: &Waiting, bank: &mut Bank| match waiting.expected {
            Expected::Transfer {
                id,
                from,
                to,
                amount,
            } => {
                let done = bank.transfer(from, to, amount);
                format!(
                    "seq={} from={from} to={to} amount={amount} left={} there={} id={id}\n",
                    done.seq, done.left, done.there
                )
            }
            Expected::Sum => "sum=1024000 accounts=1024\n".to_owned(),
            Expected::Balance(account) => {
                format!("account={account} balance={}\n", bank.balance(account))
            }
            Expected::Pong(id) => format!("pong id={id}\n"),
            _ => String::new(),
        };
        let waiting = checker.waiting.iter();
        waiting
            .map(|waiting| answer(&line(waiting, bank)))
            .collect()
    }

    fn asked(requests: usize) -> (Checker, Vec<Vec<u8>>) {
        let mut checker = Checker::new(Protocol::Accounts, 3, 32);
        let mut out = Vec::new();
        (0..requests).for_each(|_| checker.ask(Duration::ZERO, &mut out));
        let answers = honest(&checker, &mut Bank::open());
        (checker, answers)
    }

    fn counts(tally: &Tally) -> (u64, u64, u64, u64) {
        (tally.requests, tally.lost, tally.wrong, tally.reconnects)
    }

    #[test]
    fn honest_answers_are_right_however_the_bytes_are_cut() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..50 {
            let (mut checker, answers) = asked(40);
            let mut bytes = &answers.concat()[..];
            while !bytes.is_empty() {
                let (now, later) = bytes.split_at(random.usize(1..=bytes.len()));
                checker.hear(NOW, now);
                bytes = later;
            }
            let tally = checker.finish();
            assert_eq!(counts(&tally), (40, 0, 0, 0), "{:?}", tally.examples);
            assert_eq!(tally.timings.len(), 40);
        }
    }

    #[test]
    fn an_answer_that_is_left_out_is_noticed() {
        for left_out in 0..20 {
            let (mut checker, mut answers) = asked(20);
            answers.remove(left_out);
            checker.hear(NOW, &answers.concat());
            let tally = checker.finish();
            assert_eq!(tally.lost, 1);
            assert!(tally.wrong > 0 || left_out == 19);
        }
    }

    #[test]
    fn an_answer_that_comes_twice_is_noticed() {
        for twice in 0..20 {
            let (mut checker, mut answers) = asked(20);
            answers.insert(twice, answers[twice].clone());
            checker.hear(NOW, &answers.concat());
            let tally = checker.finish();
            assert!(tally.wrong > 0, "answer {twice}");
            assert_eq!(tally.reconnects, 1);
        }
    }

    #[test]
    fn answers_in_another_order_are_noticed() {
        for first in 0..19 {
            let (mut checker, mut answers) = asked(20);
            if answers[first] == answers[first + 1] {
                continue;
            }
            answers.swap(first, first + 1);
            checker.hear(NOW, &answers.concat());
            assert!(checker.finish().wrong > 0);
        }
    }

    #[test]
    fn a_changed_bit_of_a_body_is_noticed() {
        let (_, answers) = asked(20);
        for (index, whole) in answers.iter().enumerate() {
            let (mut checker, mut changed) = asked(20);
            let last = whole.len() - 2;
            changed[index][last] ^= 0x10;
            checker.hear(NOW, &changed.concat());
            let balance =
                whole.ends_with(b"\n") && !String::from_utf8_lossy(whole).contains("balance=");
            // A balance alone proves little; the ledger judges it through the transfers.
            assert!(checker.finish().wrong > 0 || !balance);
        }
    }

    #[test]
    fn a_connection_that_ends_early_loses_what_waits() {
        let (mut checker, answers) = asked(20);
        checker.hear(NOW, &answers[..15].concat());
        checker.hear(NOW, &answers[15][..10]);
        checker.ended("end of file");
        checker.hear(NOW, &answers[16]);
        let tally = checker.finish();
        assert_eq!(counts(&tally), (20, 5, 0, 1));
    }
}
