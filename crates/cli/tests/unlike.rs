//! Processes move between unlike machines, with connections open: this processor's code, the portable
//! interpreter, and aarch64 code, under an emulator on other processors (`cargo xtask aarch64` builds
//! it; LIMOSA_AARCH64 names the program).

mod common;

use common::{Done, Node, guest, limosa};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Programs are compiled under the emulator, too.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program for aarch64, if it was built. Nobody is made to build it, not even continuous
/// integration.
fn aarch64() -> Option<Command> {
    let Some(program) = std::env::var_os("LIMOSA_AARCH64") else {
        println!(
            "skipped: LIMOSA_AARCH64 is not set (`cargo xtask aarch64` builds it and sets it)"
        );
        return None;
    };
    Some(Command::new(PathBuf::from(program)))
}

/// A client of the echo server. What it sends never repeats, and all of it must come back.
struct Client {
    connection: TcpStream,
    state: u64,
    bytes: u64,
}

impl Client {
    fn connect(address: SocketAddr, seed: u64) -> Client {
        let connection = TcpStream::connect(address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.set_write_timeout(Some(PATIENCE)).unwrap();
        Client {
            connection,
            state: seed,
            bytes: 0,
        }
    }

    fn round_trip(&mut self, length: usize) {
        let sent: Vec<u8> = (0..length)
            .map(|_| {
                self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1);
                (self.state >> 56) as u8
            })
            .collect();
        self.connection.write_all(&sent).unwrap();
        let mut received = vec![0; length];
        self.connection.read_exact(&mut received).unwrap();
        assert!(sent == received, "other bytes behind {}", self.bytes);
        self.bytes += length as u64;
    }

    /// Nothing comes but the end.
    fn finish(mut self) -> u64 {
        self.connection.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(self.connection.read(&mut [0; 16]).unwrap(), 0);
        self.bytes
    }
}

/// A client that never rests.
struct Busy {
    over: Arc<AtomicBool>,
    client: JoinHandle<u64>,
}

impl Busy {
    fn start(address: SocketAddr) -> Busy {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let client = std::thread::spawn(move || {
            let mut client = Client::connect(address, 7);
            while !is_over.load(Ordering::Relaxed) {
                client.round_trip(1 + (client.bytes % 5000) as usize);
            }
            client.finish()
        });
        Busy { over, client }
    }

    fn finish(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.client.join().unwrap()
    }
}

fn name(node: &Node) -> &str {
    node.ready["name"].as_str().unwrap()
}

fn migrate(by: &Node, process: &str, to: &Node) -> Value {
    let done = by.run(["migrate", process, "--to", name(to), "--json"]);
    assert_eq!(done.code, 0, "to {}: {}{}", name(to), done.out, done.err);
    done.json()
}

/// A server goes from node to node along the whole way and back, while one client talks all the time
/// and another now and then.
fn clients_go_along(way: &[&Node]) {
    let home = way[0];
    home.start_guest("echo", &["--name", "echo", "--listen", "127.0.0.1:0"]);
    let info = home.run(["inspect", "echo", "--json"]).json();
    let address: SocketAddr = info["listeners"][0]["address"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let busy = Busy::start(address);
    let mut quiet = Client::connect(address, 9);
    quiet.round_trip(1);
    println!(
        "{:>10} {:>10} {:>12} {:>12} {:>12}",
        "from", "to", "frozen ms", "total ms", "bytes"
    );
    let back = way.iter().rev().skip(1);
    let mut from = home;
    for to in way[1..].iter().chain(back) {
        let report = migrate(home, "echo", to);
        println!(
            "{:>10} {:>10} {:>12.1} {:>12.1} {:>12}",
            name(from),
            name(to),
            report["frozen_ms"].as_f64().unwrap(),
            report["total_ms"].as_f64().unwrap(),
            report["bytes"]
        );
        quiet.round_trip(10_000);
        from = to;
    }
    let bytes = busy.finish() + quiet.finish();
    println!("{bytes} bytes came back as they were sent");
    let removed = home.run(["rm", "-f", "echo"]);
    removed.succeeds();
}

fn kernels(command: &mut Command, options: &[&str], rounds: u32) -> Done {
    command.arg("run").args(options).arg(guest("kernels"));
    let args = ["--", "fpsum", &rounds.to_string()].map(str::to_owned);
    Done::from(command.args(args).output().unwrap())
}

/// A computation in floating point that begins at one node and ends at another comes to the same
/// result as one that stays here.
fn a_computation_ends_elsewhere(from: &Node, to: &Node) {
    let mut rounds = 1;
    let expected = loop {
        let begin = Instant::now();
        let done = kernels(&mut limosa(), &[], rounds);
        done.succeeds();
        // Long enough to be in the middle of it when it moves.
        if begin.elapsed() > Duration::from_millis(700) {
            break done.out;
        }
        rounds *= 2;
    };
    kernels(&mut from.limosa(), &["-d", "--name", "sum"], rounds).succeeds();
    migrate(from, "sum", to);
    assert_eq!(to.run(["wait", "sum"]).code, 0);
    let logs = to.run(["logs", "sum"]);
    assert_eq!(logs.succeeds(), expected.trim_end());
    to.run(["rm", "sum"]).succeeds();
}

#[test]
fn processes_move_between_native_code_and_the_interpreter_with_connections_open() {
    let native = Node::start("native", None);
    let ticket = Some(native.ticket());
    let pulley = Node::start_with("pulley", ticket, &["--backend", "pulley"]);
    clients_go_along(&[&native, &pulley, &native, &pulley]);
    a_computation_ends_elsewhere(&pulley, &native);
}

#[test]
fn processes_move_between_this_machine_and_aarch64_with_connections_open() {
    let Some(program) = aarch64() else { return };
    let native = Node::start("native", None);
    let ticket = Some(native.ticket());
    let aarch64 = Node::start_by(program, "aarch64", ticket, &[]);
    clients_go_along(&[&native, &aarch64, &native, &aarch64]);
    let pulley = Node::start_with("pulley", ticket, &["--backend", "pulley"]);
    clients_go_along(&[&pulley, &aarch64, &native, &aarch64]);
    a_computation_ends_elsewhere(&aarch64, &native);
}
