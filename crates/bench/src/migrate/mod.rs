//! `limosa bench migrate`: how long a process stands still when it is moved, by its memory, how fast
//! it writes that, and in which order it goes; and how fast pages go.
//!
//! Two nodes, each an OS process of its own, on loopback. A program writes all of its memory, then
//! goes on writing at a rate, one word per page, and is moved there and back. *Frozen* is from the
//! request to freeze until the target's report that it runs; a client waits about as long. How fast
//! pages go is seen in the first round of a precopy, from the first page read to the last one
//! landed, and compared with bytes over a connection of the same kind, measured by turns with it.

mod guest;
mod report;

use crate::demo::{Fleet, Ready};
use crate::harness::{Error, Machine};
use crate::progress::Progress;
use crate::stats::median;
use daemon::client::{Client, ClientError};
pub(crate) use report::Report;
use report::{Bulk, Case, Row};
use wire::api::{MigrateRequest, MoveReport, RunSpec, Strategy};

const NAME: &str = "bench";

fn failed(doing: &'static str) -> impl Fn(ClientError) -> Error {
    move |error| Error::System {
        doing,
        error: std::io::Error::other(error.to_string()),
    }
}

/// Two nodes and who speaks to the first.
struct World {
    targets: Vec<Ready>,
    client: Client,
    _fleet: Fleet,
}

impl World {
    fn start() -> Result<World, Error> {
        let doing = "cannot start nodes";
        let other = |error: String| Error::System {
            doing,
            error: std::io::Error::other(error),
        };
        let program = std::env::current_exe().map_err(|error| other(error.to_string()))?;
        let fleet = Fleet::start(&program, &["one", "two"]);
        let fleet = fleet.map_err(|error| other(error.to_string()))?;
        let targets: Vec<Ready> = fleet.nodes().cloned().collect();
        let first = targets
            .first()
            .ok_or_else(|| other("there is none".to_owned()))?;
        Ok(World {
            client: Client::new(&first.socket),
            targets,
            _fleet: fleet,
        })
    }

    /// Starts a program on the first node, and waits until it has written its memory.
    async fn run(&self, memory_mib: u64, dirty_mib_per_s: u64) -> Result<(), Error> {
        let doing = "cannot run the program";
        let spec = RunSpec {
            name: Some(NAME.to_owned()),
            args: vec![NAME.to_owned()],
            ..RunSpec::default()
        };
        let module = guest::module(memory_mib, dirty_mib_per_s)?;
        let started = self.client.run(&spec, &[], &module).await;
        started.map_err(failed(doing))?;
        let logs = self.client.logs(NAME, true, None).await;
        let mut logs = logs.map_err(failed(doing))?;
        match logs.next().await.map_err(failed(doing))? {
            Some(_) => Ok(()),
            None => Err(Error::System {
                doing,
                error: std::io::Error::other("it has ended"),
            }),
        }
    }

    /// Moves it to the other node, by turns.
    async fn migrate(&self, turn: usize, strategy: Strategy) -> Result<MoveReport, Error> {
        let to = self.targets.get((turn + 1) % 2);
        let to = to.map(|node| node.name.clone()).unwrap_or_default();
        let request = MigrateRequest {
            strategy,
            ..MigrateRequest::new(to)
        };
        let moved = self.client.migrate_as(NAME, &request).await;
        moved.map_err(failed("cannot move the program"))
    }

    async fn remove(&self) -> Result<(), Error> {
        let removed = self.client.remove(NAME, true).await;
        removed.map_err(failed("cannot remove the program"))
    }
}

/// Measures everything.
pub(crate) fn measure(quick: bool) -> Result<Report, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Error::System {
        doing: "cannot wait for nodes",
        error,
    })?;
    runtime.block_on(measure_all(quick))
}

async fn measure_all(quick: bool) -> Result<Report, Error> {
    let cases = Case::all(quick);
    let progress = Progress::new(cases.len() as u64 + 1);
    let world = World::start()?;
    progress.say("pages over a link".to_owned());
    let bulk = bulk(&world, quick).await?;
    progress.step();
    let mut rows = Vec::new();
    for case in cases {
        progress.say(case.to_string());
        world.run(case.memory_mib, case.dirty_mib_per_s).await?;
        let mut moves = Vec::new();
        // The first one finds nothing prepared at the target.
        for turn in 0..=case.moves {
            moves.push(world.migrate(turn, case.strategy).await?);
        }
        world.remove().await?;
        rows.push(Row::new(case, moves.get(1..).unwrap_or_default()));
        progress.step();
    }
    progress.finish();
    Ok(Report::new(bulk, rows, quick, Machine::of_this()))
}

/// Pages of a process that writes nothing, and as many bytes over a plain connection, by turns.
async fn bulk(world: &World, quick: bool) -> Result<Bulk, Error> {
    let (memory_mib, turns) = if quick { (256, 5) } else { (1024, 9) };
    world.run(memory_mib, 0).await?;
    let (mut pages, mut raw) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        let report = world.migrate(turn, Strategy::Precopy).await?;
        let Some(round) = report.rounds.first() else {
            let reason = report.complaint.unwrap_or_default();
            world.remove().await?;
            return Ok(Bulk::skipped(reason));
        };
        pages.push(round.bytes as f64 / (round.took_ms / 1e3));
        let measured =
            tokio::task::spawn_blocking(move || daemon::links::raw::measure(memory_mib << 20));
        let measured = measured.await.map_err(std::io::Error::other).flatten();
        raw.push(measured.map_err(|error| Error::System {
            doing: "cannot measure a connection",
            error,
        })?);
    }
    world.remove().await?;
    // What goes first finds the target's memory new.
    let [pages, raw] = [pages, raw].map(|rates| median(rates.get(1..).unwrap_or_default()));
    Ok(Bulk::measured(pages, raw))
}
