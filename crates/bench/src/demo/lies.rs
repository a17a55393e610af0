//! A server that lies in one answer, spoken to over real sockets: the clients must find out.

use super::ledger::{Bank, audit};
use super::load::{Load, Phase};
use super::probe::Prober;
use super::protocol::Protocol;
use super::{checker::Tally, detect};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Lie {
    None,
    /// Carries a transfer out and does not say so.
    Lost,
    /// Says it twice.
    Repeated,
    /// Carries a transfer out twice, and says it once.
    Doubled,
    /// Goes on from an older state.
    Rollback,
    /// Forgets a unit.
    Sum,
    /// Closes a connection.
    HangUp,
}

/// The transfer that is lied about.
const LIE_AT: u64 = 500;

struct Server {
    bank: Bank,
    older: Option<Bank>,
    transfers: u64,
    /// Told of their number.
    count: watch::Sender<u64>,
    lie: Lie,
}

impl Server {
    /// What is sent for one request; none: the connection closes.
    fn answer(&mut self, target: &str) -> Option<Vec<String>> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let number = |name: &str| -> u64 {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let value = pairs.into_iter().find(|(key, _)| *key == name);
            value.map_or(0, |(_, value)| value.parse().unwrap())
        };
        let id = number("id");
        let mut lies = false;
        let line = match path {
            "/ping" => format!("pong id={id}\n"),
            "/sum" => {
                let taken = u64::from(self.lie == Lie::Sum && self.transfers > LIE_AT);
                format!("sum={} accounts=1024\n", self.bank.closing().sum - taken)
            }
            "/transfer" => {
                self.transfers += 1;
                self.count.send_replace(self.transfers);
                lies = self.transfers == LIE_AT;
                if self.transfers == LIE_AT - 100 {
                    self.older = Some(self.bank.clone());
                }
                if lies && self.lie == Lie::Rollback {
                    self.bank = self.older.take().unwrap();
                }
                let (from, to) = (number("from"), number("to"));
                let amount = number("amount");
                let narrow = |account: u64| u32::try_from(account).unwrap();
                if lies && self.lie == Lie::Doubled {
                    self.bank.transfer(narrow(from), narrow(to), amount);
                }
                let done = self.bank.transfer(narrow(from), narrow(to), amount);
                format!(
                    "seq={} from={from} to={to} amount={amount} left={} there={} id={id}\n",
                    done.seq, done.left, done.there
                )
            }
            other => {
                let account = other.strip_prefix("/balance/").unwrap();
                let balance = self.bank.balance(account.parse().unwrap());
                format!("account={account} balance={balance}\n")
            }
        };
        match self.lie {
            Lie::Lost if lies => Some(vec![]),
            Lie::Repeated if lies => Some(vec![line.clone(), line]),
            Lie::HangUp if lies => None,
            _ => Some(vec![line]),
        }
    }
}

async fn serve(mut stream: TcpStream, server: Arc<Mutex<Server>>) {
    let mut input = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(&input).unwrap();
        let Some(taken) = parsed.is_complete().then(|| parsed.unwrap()) else {
            match stream.read_buf(&mut input).await {
                Ok(0) | Err(_) => return,
                Ok(_) => continue,
            }
        };
        let Some(lines) = server.lock().unwrap().answer(request.path.unwrap()) else {
            return;
        };
        for line in lines {
            let length = line.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{line}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        input.drain(..taken);
    }
}

/// Drives the server until well after the lie; also returns what the ledger finds.
async fn drive(lie: Lie) -> (Tally, Vec<String>) {
    let (count, mut counted) = watch::channel(0);
    let server = Arc::new(Mutex::new(Server {
        bank: Bank::open(),
        older: None,
        transfers: 0,
        count,
        lie,
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shared = Arc::clone(&server);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&shared)));
        }
    });
    let origin = Instant::now();
    let load = Load::connect(address, Protocol::Accounts, 8, origin)
        .await
        .unwrap();
    let prober = Prober::start(address, Protocol::Accounts, 8, origin).unwrap();
    load.set(Phase::Paced {
        interval: Duration::from_millis(2),
    });
    let enough = counted.wait_for(|count| *count >= 2 * LIE_AT);
    enough.await.unwrap();
    let mut tally = load.finish(Duration::from_millis(300)).await;
    let patience = Duration::from_millis(300);
    let probed = tokio::task::spawn_blocking(move || prober.finish(patience));
    tally.add(probed.await.unwrap());
    let closing = server.lock().unwrap().bank.closing();
    let found = audit(tally.transfers.clone(), closing);
    (tally, found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_server_is_believed() {
    let (tally, found) = drive(Lie::None).await;
    assert_eq!(
        (tally.lost, tally.wrong, tally.reconnects),
        (0, 0, 0),
        "{:?}",
        tally.examples
    );
    assert_eq!(found, Vec::<String>::new());
    assert!(tally.requests > 2 * LIE_AT);
    assert!(tally.timings.iter().all(|timing| timing.answered.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_counted_and_leaves_a_gap() {
    let (tally, found) = drive(Lie::Lost).await;
    assert!(tally.lost > 0 && tally.wrong > 0);
    assert!(found[0].contains("never acknowledged"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_answer_is_wrong() {
    let (tally, _) = drive(Lie::Repeated).await;
    assert!(tally.wrong > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_carried_out_twice_is_found_though_every_answer_looks_right() {
    let (tally, found) = drive(Lie::Doubled).await;
    assert_eq!((tally.lost, tally.wrong), (0, 0));
    assert!(found[0].contains("never acknowledged"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_on_from_an_older_state_is_found() {
    let (_, found) = drive(Lie::Rollback).await;
    assert!(found[0].contains("acknowledged twice"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_that_changes_is_wrong_at_once() {
    let (tally, _) = drive(Lie::Sum).await;
    assert!(tally.wrong > 0, "{:?}", tally.examples);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_connection_counts_as_a_reconnect_with_its_requests_lost() {
    let (tally, _) = drive(Lie::HangUp).await;
    assert_eq!(tally.reconnects, 1);
    assert!(tally.lost > 0);
}

/// Serves one answer per chunk of input, made by `reply`.
async fn simple(reply: fn(&[u8]) -> Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    let _ = stream.write_all(&reply(&buffer[..count])).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn what_a_server_speaks_is_found_out() {
    let http = simple(|_| b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno".to_vec());
    let found = detect::detect(http.await).await;
    assert_eq!(found, Ok(Protocol::Http { status: 404 }));

    let echo = simple(|bytes| bytes.to_vec()).await;
    assert_eq!(detect::detect(echo).await, Ok(Protocol::Echo));

    let closes = simple(|_| b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    assert!(matches!(
        detect::detect(closes).await,
        Err(detect::Unknown::Closes(_))
    ));

    let neither = simple(|_| b"220 smtp ready, longer than any line that was sent\r\n".to_vec());
    let found = detect::detect(neither.await).await;
    assert!(
        matches!(found, Err(detect::Unknown::Neither(_))),
        "{found:?}"
    );
}
