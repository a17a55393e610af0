//! `limosa demo`: a server moves between machines while its clients keep talking to it.
//!
//! ```text
//!   three nodes start -> the guest runs on the first, which stays the anchor of its listener
//!     -> clients connect, once and for all -> their capacity is measured in a closed loop
//!     -> paced load at less than half of it, beside a prober at 1 kHz
//!     -> the guest goes round the nodes, now and then back, the clients checking every answer
//!     -> all outstanding answers are awaited -> what the answers say is held against each other
//!     -> everything is taken down
//! ```
//! On success and on failure nothing is left behind: no process, no file but the plot.

mod checker;
mod curve;
mod detect;
mod downtime;
pub(crate) mod fleet;
pub(crate) mod http;
mod ledger;
#[cfg(test)]
mod lies;
mod load;
mod narrator;
mod probe;
mod protocol;
mod report;
mod svg;
mod terminal;

pub use fleet::{Fleet, FleetError, Ready};
pub use report::{Figures, Moved, Report};
pub use svg::SvgError;
pub use terminal::Screen;

use checker::Tally;
use curve::Curve;
use daemon::client::{Client, ClientError};
use downtime::{Quantiles, downtime};
use load::{Load, Phase};
use narrator::Narrator;
use probe::Prober;
use protocol::Protocol;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wire::api::{ListenSpec, MoveReport, ProcessInfo, RunSpec};

/// The server that is moved unless another is named.
const ACCOUNTS: &[u8] = include_bytes!("../../../../guests/accounts/accounts.wasm");
const NODES: [&str; 3] = ["one", "two", "three"];
/// How long outstanding answers are awaited at the end before they count as lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// A probe that is unanswered within this time after a move was reported counts as its doing too.
const AFTERMATH: Duration = Duration::from_millis(50);
/// How long the end of a program may be on its way.
const TELLING: Duration = Duration::from_millis(500);
/// The paced load and the probes together make this share of the capacity.
const SHARE: f64 = 0.45;
/// More requests a second than this say nothing new.
const MOST_PER_SECOND: f64 = 20_000.0;
/// Moves that may fail before the run is given up.
const MOST_FAILURES: u64 = 3;

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `limosa` binary that becomes the nodes.
    pub program: PathBuf,
    /// Fewer moves and shorter waits.
    pub quick: bool,
    /// How often to move; 24 unless given, or 6 if quick.
    pub moves: Option<u32>,
    /// Clients beside the prober.
    pub clients: u32,
    /// Another program than the accounts server.
    pub guest: Option<Guest>,
    /// Where to write the plot.
    pub svg: Option<PathBuf>,
}

/// A program to move.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Where it was read from.
    pub path: PathBuf,
    /// The module.
    pub module: Vec<u8>,
}

/// A run and its plot.
pub struct Outcome {
    /// The figures.
    pub report: Report,
    probes: Vec<downtime::Probe>,
    moves: Vec<Duration>,
    start: Duration,
    end: Duration,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The nodes.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A node refused something.
    #[error("{what}: {source}")]
    Node {
        /// What was asked of it.
        what: &'static str,
        /// The refusal.
        source: ClientError,
    },
    /// The program does not listen.
    #[error(
        "the program has no listener; the demo moves servers (it passes a socket as descriptor 3)"
    )]
    NoListener,
    /// The program ended.
    #[error(
        "the program ended by itself ({0}) before it was moved; the demo moves servers, which take \
         connections from descriptor 3 on as long as they run"
    )]
    Ended(String),
    /// How to talk to it is not known.
    #[error(transparent)]
    Unknown(#[from] detect::Unknown),
    /// A client's connection.
    #[error("cannot connect to the program: {0}")]
    Connect(std::io::Error),
    /// Nothing was answered.
    #[error("no request was answered in {0:?}")]
    Silent(Duration),
    /// The plot.
    #[error(transparent)]
    Svg(#[from] SvgError),
    /// A signal asked it to end: Ctrl-C, or one of its kind.
    #[error("interrupted; all nodes were ended and their files removed")]
    Interrupted {
        /// The signal's number.
        signal: u8,
    },
}

/// Durations of the parts.
struct Plan {
    moves: u32,
    warm_up: Duration,
    calibration: Duration,
    settle: Duration,
    /// Shortest and longest time between two moves.
    pause: (Duration, Duration),
}

impl Plan {
    fn of(options: &Options) -> Plan {
        let ms = Duration::from_millis;
        if options.quick {
            Plan {
                moves: options.moves.unwrap_or(6),
                warm_up: ms(200),
                calibration: ms(500),
                settle: ms(250),
                pause: (ms(120), ms(240)),
            }
        } else {
            Plan {
                moves: options.moves.unwrap_or(24),
                warm_up: ms(500),
                calibration: ms(1500),
                settle: ms(1000),
                pause: (ms(400), ms(900)),
            }
        }
    }
}

/// Runs the demo.
pub async fn run(options: &Options) -> Result<Outcome, DemoError> {
    tokio::select! {
        outcome = play(options) => outcome,
        signal = interrupted() => Err(DemoError::Interrupted { signal }),
    }
}

/// Waits for a signal that asks to end, and returns its number.
async fn interrupted() -> u8 {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => 2,
        () = wait(SignalKind::terminate()) => 15,
        () = wait(SignalKind::hangup()) => 1,
    }
}

/// What runs, and where.
struct Stage {
    // Dropped last: the fleet's nodes end after everyone has stopped asking them.
    process: ProcessInfo,
    address: SocketAddr,
    protocol: Protocol,
    client: Client,
    fleet: Fleet,
}

async fn play(options: &Options) -> Result<Outcome, DemoError> {
    if let Some(path) = &options.svg {
        svg::check(path)?;
    }
    let plan = Plan::of(options);
    let narrator = Narrator::new();
    let stage = set_up(options, &narrator).await?;

    let origin = Instant::now();
    let load = Load::connect(stage.address, stage.protocol, options.clients, origin)
        .await
        .map_err(DemoError::Connect)?;
    narrator.say(&format!(
        "measuring what {} clients can get answered",
        options.clients
    ));
    let capacity = measure_capacity(&load, &plan).await?;

    let rate = (SHARE * capacity - 1.0 / probe::INTERVAL.as_secs_f64())
        .max(SHARE * capacity / 4.0)
        .min(MOST_PER_SECOND);
    let interval = Duration::from_secs_f64(f64::from(options.clients) / rate);
    load.set(Phase::Paced { interval });
    let prober = Prober::start(stage.address, stage.protocol, options.clients, origin)
        .map_err(DemoError::Connect)?;
    let start = origin.elapsed();
    narrator.say(&format!("moving it {} times under load", plan.moves));
    narrator.parts(plan.moves.into());
    let before = load.answered();
    let tour = Tour::make(&stage, &plan, origin, &narrator).await;
    let end = origin.elapsed();
    let answered = load.answered() - before;

    narrator.say("waiting for the last answers");
    let probed = tokio::task::spawn_blocking(move || prober.finish(PATIENCE));
    let mut tally = load.finish(PATIENCE).await;
    let probed = probed.await.unwrap_or_default();
    let probes = probed.timings.clone();
    let mut problems = tour.problems.clone();
    if stage.protocol == Protocol::Accounts {
        narrator.say("holding all answers against each other");
        problems.extend(audit(&stage, &tally).await);
    }
    let transfers = tally.transfers.len() as u64;
    let paced = tally.timings.iter().filter(|timing| timing.due >= start);
    let response = Quantiles::of(paced.map(|timing| timing.wait(end)));
    let seconds = (end - start).as_secs_f64();
    tally.add(Tally {
        timings: Vec::new(),
        ..probed.clone()
    });
    problems.extend(std::mem::take(&mut tally.examples));

    let each = tour.judged(&probes, start, end);
    let downtimes = tour.downtimes(&probes, end);
    let mut report = Report {
        moves: tour.made.len() as u64,
        requests: tally.requests,
        lost: tally.lost,
        wrong: tally.wrong,
        reconnects: tally.reconnects,
        downtime_ms: Quantiles::of(downtimes).into(),
        failed_moves: tour.failed,
        guest: match &options.guest {
            None => "accounts server".to_owned(),
            Some(guest) => guest.path.display().to_string(),
        },
        protocol: stage.protocol.name(),
        clients: options.clients,
        probes: probed.requests,
        transfers,
        seconds,
        capacity_per_second: capacity.round(),
        load_per_second: ((answered + probed.requests) as f64 / seconds).round(),
        response_ms: response.into(),
        probe_ms: Quantiles::of(probes.iter().map(|probe| probe.wait(end))).into(),
        problems,
        each,
        svg: options.svg.as_ref().map(|path| path.display().to_string()),
    };
    if !report.passed() && tour.failed > 0 {
        report
            .problems
            .push(format!("logs: {}", stage.fleet.logs()));
    }
    let outcome = Outcome {
        report,
        probes,
        moves: tour.made.iter().map(|made| made.asked).collect(),
        start,
        end,
    };
    if let Some(path) = &options.svg {
        let curve = outcome.curve(svg::SLICES);
        let title = format!(
            "{}: {} moves under load, downtime p50 {:.1} ms, max {:.1} ms",
            outcome.report.guest,
            outcome.report.moves,
            outcome.report.downtime_ms.p50,
            outcome.report.downtime_ms.max
        );
        svg::write(&curve, &title, path)?;
    }
    narrator.say("taking everything down");
    take_down(stage).await;
    Ok(outcome)
}

impl Outcome {
    fn curve(&self, slices: usize) -> Curve {
        Curve::new(&self.probes, &self.moves, self.start, self.end, slices)
    }

    /// Prints the table and the plot.
    pub fn print(&self, screen: Screen, out: &mut dyn std::io::Write) -> std::io::Result<()> {
        self.report.print(out)?;
        writeln!(out)?;
        let curve = self.curve(terminal::slices(screen.width));
        terminal::print(&curve, screen, out)?;
        if let Some(path) = &self.report.svg {
            writeln!(out, "\nplot written to {path}")?;
        }
        Ok(())
    }
}

/// Starts the nodes and the program, and finds out how to speak to it.
async fn set_up(options: &Options, narrator: &Narrator) -> Result<Stage, DemoError> {
    let module = match &options.guest {
        None => ACCOUNTS,
        Some(guest) => &guest.module,
    };
    narrator.say("starting three nodes on this machine");
    let program = options.program.clone();
    let started = tokio::task::spawn_blocking(move || Fleet::start(&program, &NODES)).await;
    let fleet = started.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let socket = fleet.first().map(|node| node.socket.clone());
    let client = Client::new(socket.unwrap_or_default());

    narrator.say("compiling the program and starting it on node `one`");
    let (name, program) = match &options.guest {
        None => ("accounts".to_owned(), "accounts.wasm".to_owned()),
        Some(Guest { path, .. }) => {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            (stem.into_owned(), path.display().to_string())
        }
    };
    let spec = RunSpec {
        args: vec![program],
        listen: vec![ListenSpec {
            address: "127.0.0.1:0".to_owned(),
            name: name.clone(),
        }],
        ..RunSpec::default()
    };
    let refused = |what| move |source| DemoError::Node { what, source };
    let process = client.run(&spec, &[], module).await;
    let process = process.map_err(refused("node `one` cannot run the program"))?;
    let address = process.listeners.first();
    let address = address.and_then(|listener| listener.address.parse().ok());
    let address = address.ok_or(DemoError::NoListener)?;
    let protocol = match options.guest {
        None => Protocol::Accounts,
        Some(_) => {
            narrator.say("asking it what it speaks");
            let protocol = ask(&client, &process, address).await?;
            narrator.note(&format!("it speaks {}", protocol.name()));
            protocol
        }
    };
    Ok(Stage {
        process,
        address,
        protocol,
        client,
        fleet,
    })
}

/// Finds out what a program speaks, unless it ends instead.
async fn ask(
    client: &Client,
    process: &ProcessInfo,
    address: SocketAddr,
) -> Result<Protocol, DemoError> {
    let id = process.id.to_string();
    let mut end = std::pin::pin!(ended(client, &id));
    let unknown = tokio::select! {
        end = &mut end => return Err(DemoError::Ended(end)),
        found = detect::detect(address) => match found {
            Ok(protocol) => return Ok(protocol),
            Err(unknown) => unknown,
        },
    };
    // The connections of a program that ends may break before its end is told.
    match tokio::time::timeout(TELLING, end).await {
        Ok(end) => Err(DemoError::Ended(end)),
        Err(_) => Err(unknown.into()),
    }
}

/// Waits for the end of a process, and says what came of it.
async fn ended(client: &Client, id: &str) -> String {
    match client.wait(id).await {
        Ok(ProcessInfo {
            reason: Some(reason),
            ..
        }) => reason,
        Ok(info) => format!("exit code {}", info.exit_code.unwrap_or_default()),
        Err(error) => error.to_string(),
    }
}

/// Requests a second with one outstanding per client.
async fn measure_capacity(load: &Load, plan: &Plan) -> Result<f64, DemoError> {
    load.set(Phase::Closed);
    tokio::time::sleep(plan.warm_up).await;
    let (before, since) = (load.answered(), Instant::now());
    tokio::time::sleep(plan.calibration).await;
    let capacity = (load.answered() - before) as f64 / since.elapsed().as_secs_f64();
    if capacity < 1.0 {
        return Err(DemoError::Silent(plan.calibration));
    }
    Ok(capacity)
}

/// Holds what the server says at the end against all that it has said before.
async fn audit(stage: &Stage, tally: &Tally) -> Vec<String> {
    let sum = detect::fetch(stage.address, "/sum").await;
    let checksum = detect::fetch(stage.address, "/checksum").await;
    match (sum, checksum) {
        (Ok(sum), Ok(checksum)) => match protocol::closing(&sum, &checksum) {
            Some(closing) => ledger::audit(tally.transfers.clone(), closing),
            None => vec![format!(
                "the closing account makes no sense: {sum}{checksum}"
            )],
        },
        (Err(error), _) | (_, Err(error)) => vec![format!("no closing account: {error}")],
    }
}

/// Ends the program, then the nodes.
async fn take_down(stage: Stage) {
    let id = stage.process.id.to_string();
    // Whether or not this succeeds, the node's end is the program's.
    let removed = stage.client.remove(&id, true);
    let _ = tokio::time::timeout(Duration::from_secs(2), removed).await;
    let _ = tokio::task::spawn_blocking(move || drop(stage.fleet)).await;
}

/// The moves of a run.
#[derive(Default)]
struct Tour {
    made: Vec<Made>,
    failed: u64,
    problems: Vec<String>,
}

struct Made {
    from: usize,
    to: usize,
    asked: Duration,
    done: Duration,
    report: MoveReport,
}

impl Tour {
    /// Goes round: one, two, three, one … and from time to time straight back.
    async fn make(stage: &Stage, plan: &Plan, origin: Instant, narrator: &Narrator) -> Tour {
        let mut tour = Tour::default();
        let mut random = fastrand::Rng::new();
        let nodes: Vec<Ready> = stage.fleet.nodes().cloned().collect();
        let process = stage.process.id.to_string();
        let mut at = 0;
        tokio::time::sleep(plan.settle).await;
        for number in 0..plan.moves {
            // Every fifth move goes back to where it came from.
            let step = if number % 5 == 3 { nodes.len() - 1 } else { 1 };
            let to = (at + step) % nodes.len();
            let Some(target) = nodes.get(to) else { break };
            let asked = origin.elapsed();
            let target = target.node.to_string();
            match stage.client.migrate(&process, &target).await {
                Ok(report) => {
                    narrator.part(&format!("{} -> {}", NODES[at], NODES[to]));
                    let done = origin.elapsed();
                    tour.made.push(Made {
                        from: at,
                        to,
                        asked,
                        done,
                        report,
                    });
                    at = to;
                }
                Err(error) => {
                    tour.failed += 1;
                    let from = NODES[at];
                    let to = NODES[to];
                    tour.problems.push(format!(
                        "move {} from {from} to {to} failed: {error}",
                        number + 1
                    ));
                    if tour.failed == MOST_FAILURES {
                        break;
                    }
                }
            }
            let (shortest, longest) = plan.pause;
            let more = (longest - shortest).mul_f64(random.f64());
            tokio::time::sleep(shortest + more).await;
        }
        tokio::time::sleep(plan.settle).await;
        tour
    }

    fn downtimes(&self, probes: &[downtime::Probe], end: Duration) -> Vec<Duration> {
        let of = |made: &Made| downtime(probes, made.asked, made.done + AFTERMATH, end);
        self.made.iter().map(of).collect()
    }

    fn judged(&self, probes: &[downtime::Probe], start: Duration, end: Duration) -> Vec<Moved> {
        let downtimes = self.downtimes(probes, end);
        let judged = |(made, downtime): (&Made, Duration)| Moved {
            from: NODES[made.from].to_owned(),
            to: NODES[made.to].to_owned(),
            at_seconds: report::milliseconds(made.asked.saturating_sub(start)) / 1e3,
            downtime_ms: report::milliseconds(downtime),
            frozen_ms: made.report.frozen_ms,
            total_ms: report::milliseconds(made.done - made.asked),
            bytes: made.report.bytes,
        };
        self.made.iter().zip(downtimes).map(judged).collect()
    }
}
