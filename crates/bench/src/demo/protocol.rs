//! What a client says to the moving server, and what it must hear.
//!
//! | protocol | request | the answer must |
//! |---|---|---|
//! | accounts | transfers, with balances and the sum between them | say exactly what was asked, and agree with all others (see `ledger`) |
//! | http | `GET /` | be well-formed, with the status of the first one |
//! | echo | a line that no other request shares | be the same bytes |

use super::http::{self, Malformed};
use super::ledger::{ACCOUNTS, Closing, OPENING_BALANCE, Transfer};
use std::fmt::Write;

/// How the server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The accounts server that comes with the demo.
    Accounts,
    /// Any HTTP/1.1 server that keeps connections open.
    Http {
        /// The status of `GET /`.
        status: u16,
    },
    /// Any server that sends back what it gets.
    Echo,
}

/// What the answer to a request must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A transfer, carried out or refused for lack of funds.
    Transfer {
        /// Comes back.
        id: u64,
        /// Payer.
        from: u32,
        /// Payee.
        to: u32,
        /// How much.
        amount: u64,
    },
    /// The sum that never changes.
    Sum,
    /// The balance of an account.
    Balance(u32),
    /// The id of a ping.
    Pong(u64),
    /// An HTTP answer with that status.
    Status(u16),
    /// These bytes.
    Line(Vec<u8>),
}

/// Why an answer is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is whole, but not the answer to the request; the next one can be read.
    Answer(String),
    /// Where it ends is not known: nothing more can be read from the connection.
    Framing(String),
}

/// One answer: the bytes it took, and whether it was right.
pub type Heard = (usize, Result<Option<Transfer>, Wrong>);

impl Protocol {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Accounts => "accounts",
            Protocol::Http { .. } => "http",
            Protocol::Echo => "echo",
        }
    }

    /// Appends the next request of a client to `out`.
    pub fn request(self, random: &mut fastrand::Rng, id: u64, out: &mut Vec<u8>) -> Expected {
        if self != Protocol::Accounts {
            return self.probe(id, out);
        }
        match random.u32(..16) {
            0 => {
                get("/sum", out);
                Expected::Sum
            }
            1 => {
                let account = random.u32(..ACCOUNTS);
                get(&format!("/balance/{account}"), out);
                Expected::Balance(account)
            }
            _ => {
                let from = random.u32(..ACCOUNTS);
                let to = (from + random.u32(1..ACCOUNTS)) % ACCOUNTS;
                let amount = random.u64(1..10);
                let request = format!(
                    "POST /transfer?from={from}&to={to}&amount={amount}&id={id} HTTP/1.1\r\n\
                     Host: demo\r\nContent-Length: 0\r\n\r\n"
                );
                out.extend_from_slice(request.as_bytes());
                Expected::Transfer {
                    id,
                    from,
                    to,
                    amount,
                }
            }
        }
    }

    /// Appends the cheapest request there is to `out`.
    pub fn probe(self, id: u64, out: &mut Vec<u8>) -> Expected {
        match self {
            Protocol::Accounts => {
                get(&format!("/ping?id={id}"), out);
                Expected::Pong(id)
            }
            Protocol::Http { status } => {
                get("/", out);
                Expected::Status(status)
            }
            Protocol::Echo => {
                let mut line = String::new();
                // Unlike lengths, so that answers do not fall into step with segments.
                let filling = "godwit ".repeat(usize::try_from(id % 7).unwrap_or(0));
                let _ = writeln!(line, "limosa {id:016x} {filling}");
                out.extend_from_slice(line.as_bytes());
                Expected::Line(line.into_bytes())
            }
        }
    }
}

fn get(target: &str, out: &mut Vec<u8>) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: demo\r\n\r\n");
    out.extend_from_slice(request.as_bytes());
}

impl Expected {
    /// Reads one answer from the front of `buffer`; `None` if it is not whole yet.
    pub fn hear(&self, buffer: &[u8]) -> Option<Heard> {
        if let Expected::Line(line) = self {
            let length = buffer.len().min(line.len());
            return if buffer[..length] != line[..length] {
                let got = String::from_utf8_lossy(&buffer[..length]);
                let sent = String::from_utf8_lossy(line);
                let wrong = format!("sent {:?}, got back {:?}", sent, got);
                Some((0, Err(Wrong::Framing(wrong))))
            } else {
                (length == line.len()).then_some((length, Ok(None)))
            };
        }
        let (answer, taken) = match http::cut(buffer) {
            Ok(whole) => whole?,
            Err(error) => return Some((0, Err(Wrong::Framing(self.wrong(&error))))),
        };
        let judged = match self {
            Expected::Status(status) if answer.status == *status => Ok(None),
            Expected::Status(status) => Err(format!("status {}, not {status}", answer.status)),
            _ => self.judge(answer.status, &answer.body),
        };
        if judged.is_ok() && !answer.keeps {
            let wrong = "the server closes the connection after its answer".to_owned();
            return Some((taken, Err(Wrong::Framing(wrong))));
        }
        let judged = judged.map_err(|why| Wrong::Answer(format!("{self:?}: {why}")));
        Some((taken, judged))
    }

    fn wrong(&self, error: &Malformed) -> String {
        format!("{self:?}: {error}")
    }

    /// Judges an answer of the accounts server.
    fn judge(&self, status: u16, body: &[u8]) -> Result<Option<Transfer>, String> {
        let text = std::str::from_utf8(body).unwrap_or("(not text)").trim_end();
        let unexpected = || format!("{status} {text}");
        let fields = Fields(text);
        let right = match *self {
            Expected::Transfer {
                id,
                from,
                to,
                amount,
                ..
            } => {
                if status == 409 {
                    let left = fields.number("left").ok_or_else(unexpected)?;
                    let refused = format!("refused=funds left={left} id={id}");
                    return if text == refused && left < amount {
                        Ok(None)
                    } else {
                        Err(unexpected())
                    };
                }
                let numbers = fields.number("seq").zip(fields.number("left"));
                let Some(((seq, left), there)) = numbers.zip(fields.number("there")) else {
                    return Err(unexpected());
                };
                let expected = format!(
                    "seq={seq} from={from} to={to} amount={amount} left={left} there={there} id={id}"
                );
                if (status, text) == (200, expected.as_str()) {
                    return Ok(Some(Transfer {
                        seq,
                        from,
                        to,
                        amount,
                        left,
                        there,
                    }));
                }
                false
            }
            Expected::Sum => {
                let sum = u64::from(ACCOUNTS) * OPENING_BALANCE;
                text == format!("sum={sum} accounts={ACCOUNTS}")
            }
            Expected::Balance(account) => fields
                .number("balance")
                .is_some_and(|balance| text == format!("account={account} balance={balance}")),
            Expected::Pong(id) => text == format!("pong id={id}"),
            Expected::Status(_) | Expected::Line(_) => false,
        };
        if status == 200 && right {
            Ok(None)
        } else {
            Err(unexpected())
        }
    }
}

/// `name=value` pairs separated by spaces.
struct Fields<'a>(&'a str);

impl Fields<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.0
            .split(' ')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

/// Reads the accounts server's answers to `/sum` and `/checksum`.
pub fn closing(sum: &str, checksum: &str) -> Option<Closing> {
    let last = Fields(checksum.trim_end());
    Some(Closing {
        sum: Fields(sum.trim_end()).number("sum")?,
        count: last.number("count")?,
        checksum: u64::from_str_radix(last.text("checksum")?, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }

    #[test]
    fn a_transfer_is_right_only_if_it_is_the_one_that_was_asked_for() {
        let asked = Expected::Transfer {
            id: 9,
            from: 1,
            to: 2,
            amount: 5,
        };
        let right = "seq=17 from=1 to=2 amount=5 left=995 there=1005 id=9\n";
        let (_, heard) = asked.hear(&answer(200, right)).unwrap();
        assert_eq!(heard.unwrap().unwrap().seq, 17);
        let (_, refused) = asked
            .hear(&answer(409, "refused=funds left=3 id=9\n"))
            .unwrap();
        assert_eq!(refused, Ok(None));
        for (status, wrong) in [
            (
                200,
                "seq=17 from=1 to=2 amount=5 left=995 there=1005 id=8\n",
            ),
            (
                200,
                "seq=17 from=1 to=3 amount=5 left=995 there=1005 id=9\n",
            ),
            (200, "seq=17 from=1 to=2 amount=5 left=995 there=1005\n"),
            (200, "pong id=9\n"),
            (500, right),
            (409, "refused=funds left=5 id=9\n"),
            (409, "refused=funds left=3 id=1\n"),
        ] {
            let (_, heard) = asked.hear(&answer(status, wrong)).unwrap();
            assert!(matches!(heard, Err(Wrong::Answer(_))), "{status} {wrong}");
        }
    }

    #[test]
    fn an_echo_is_wrong_at_its_first_wrong_byte() {
        let mut sent = Vec::new();
        let asked = Protocol::Echo.probe(77, &mut sent);
        for end in 0..sent.len() {
            assert_eq!(asked.hear(&sent[..end]), None);
            let mut wrong = sent[..=end].to_vec();
            wrong[end] ^= 1;
            assert!(matches!(
                asked.hear(&wrong),
                Some((0, Err(Wrong::Framing(_))))
            ));
        }
        assert_eq!(asked.hear(&sent), Some((sent.len(), Ok(None))));
    }

    #[test]
    fn lines_of_different_ids_differ() {
        let mut seen = std::collections::HashSet::new();
        for id in 0..1000 {
            let mut line = Vec::new();
            Protocol::Echo.probe(id, &mut line);
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            assert!(seen.insert(line));
        }
    }

    #[test]
    fn a_sum_that_changed_and_a_server_that_hangs_up_are_wrong() {
        let right = answer(200, "sum=1024000 accounts=1024\n");
        assert_eq!(Expected::Sum.hear(&right), Some((right.len(), Ok(None))));
        let (_, heard) = Expected::Sum
            .hear(&answer(200, "sum=1024001 accounts=1024\n"))
            .unwrap();
        assert!(heard.is_err());
        let closes = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let (_, heard) = Expected::Status(200).hear(closes).unwrap();
        assert!(matches!(heard, Err(Wrong::Framing(_))));
    }

    #[test]
    fn the_closing_account_is_read_from_its_two_answers() {
        let closing = closing(
            "sum=1024000 accounts=1024\n",
            "count=17 checksum=00112233aabbccdd\n",
        );
        let expected = Closing {
            sum: 1_024_000,
            count: 17,
            checksum: 0x0011_2233_aabb_ccdd,
        };
        assert_eq!(closing, Some(expected));
    }
}
