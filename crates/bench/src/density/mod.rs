//! `limosa bench density`: what an idle process costs.
//!
//! Servers are started in one operating-system process. Each answers one request over a connection
//! that stays open, and then waits in its host call. Memory that was added, over their number, is
//! all there is: private pages, page tables, and the system's records of mappings. Clients are in
//! memory: no sockets are in it.
//!
//! * `fiber`: they wait as they are, all at a time; less the pages of linear memory that a program
//!   itself has written (`own`), which it would need anywhere.
//! * `folded`: each is folded when it has answered, before the next one is started. What it keeps of
//!   its own pages, the difference from the image's, is in it.
//!
//! In the end each answers once more: first those in a fiber, then those that are folded.

mod report;
mod usage;
mod world;

use crate::harness::{Error, Machine};
use crate::progress::Progress;
pub(crate) use report::Report;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use usage::Usage;
use vm::{Control, Image, Meter, Outcome, Process, Spec};
use world::{Client, LISTENER, Rest};

const HTTPD: &[u8] = include_bytes!("../../../../guests/httpd/httpd.wasm");
const NAME: &str = "httpd";
/// How many servers are measured.
#[derive(Clone, Copy)]
struct Extent {
    fibers: usize,
    folded: usize,
}

const FULL: Extent = Extent {
    fibers: 10_000,
    folded: 100_000,
};
const QUICK: Extent = Extent {
    fibers: 300,
    folded: 3_000,
};

/// What was measured.
#[derive(Clone, Copy, Debug)]
struct Measured {
    fibers: usize,
    in_fibers: Usage,
    /// Bytes of linear memory that those in fibers had written.
    own: u64,
    folded: usize,
    in_folds: Usage,
}

fn error(doing: &'static str, reason: impl ToString) -> Error {
    Error::Process {
        program: NAME,
        doing,
        reason: reason.to_string(),
    }
}

/// A process whose run is under way.
struct Server {
    client: Arc<Client>,
    control: Control,
    meter: Meter,
    run: Pin<Box<dyn Future<Output = (Outcome, Process)>>>,
}

impl Server {
    /// Starts one, which answers once.
    fn start(image: &Arc<Image>, spec: &Spec, rest: &Arc<Rest>) -> Result<Server, Error> {
        let client = Arc::new(Client::default());
        let process = Process::start(image, spec, client.ports(rest));
        let mut process = process.map_err(|thaw| error("starting it", thaw))?;
        let (control, meter) = (process.control(), process.meter());
        let run = Box::pin(async move { (process.run().await, process) });
        let mut server = Server {
            client,
            control,
            meter,
            run,
        };
        let _ = server.turn();
        server.answer()?;
        Ok(server)
    }

    /// Runs until it waits.
    fn turn(&mut self) -> Poll<(Outcome, Process)> {
        let mut context = Context::from_waker(Waker::noop());
        self.run.as_mut().poll(&mut context)
    }

    fn answer(&mut self) -> Result<(), Error> {
        self.client.ask();
        match self.turn() {
            Poll::Pending if self.client.is_answered() => Ok(()),
            Poll::Pending => Err(error("asking it", "it does not answer")),
            Poll::Ready((outcome, _)) => Err(error("asking it", format!("it is {outcome:?}"))),
        }
    }

    fn fold(&mut self) -> Result<(), Error> {
        let folds = self.meter.read().folds;
        let waits = self.control.fold() && self.turn().is_pending();
        match waits && self.meter.read().folds > folds {
            true => Ok(()),
            false => Err(error("folding it", "it does not fold")),
        }
    }

    /// Ends it; gives the bytes of linear memory that it had written.
    fn own_bytes(mut self) -> Result<u64, Error> {
        self.control.freeze();
        match self.turn() {
            Poll::Ready((Outcome::Frozen, process)) => Ok(process.written_bytes().unwrap_or(0)),
            _ => Err(error("freezing it", "it does not freeze")),
        }
    }
}

fn measure_so_many(extent: Extent, progress: &Progress) -> Result<Measured, Error> {
    let Extent { fibers, folded } = extent;
    let engine = vm::Engine::new(vm::Config::default());
    let engine = engine.map_err(|fault| error("starting the engine", fault))?;
    let image = engine.load(HTTPD);
    let image = image.map_err(|fault| error("loading it", fault))?;
    let prepared = image.prepare_thaw();
    prepared.map_err(|fault| error("loading it", fault))?;
    let rest = Rest::new();
    let spec = Spec {
        args: vec![NAME.into()],
        listeners: vec![LISTENER.into()],
        ..Spec::default()
    };
    // What only the first one costs is not counted.
    let mut first = Server::start(&image, &spec, &rest)?;
    first.fold()?;
    first.answer()?;

    progress.say(format!("{folded} servers, folded"));
    let mut servers = Vec::with_capacity(folded);
    let before = Usage::now()?;
    for _ in 0..folded {
        let mut server = Server::start(&image, &spec, &rest)?;
        server.fold()?;
        servers.push(server);
        progress.step();
    }
    let in_folds = Usage::now()?.since(before);
    for server in &mut servers {
        server.answer()?;
        server.fold()?;
    }
    drop(servers);

    progress.say(format!("{fibers} servers"));
    let mut servers = Vec::with_capacity(fibers);
    let before = Usage::now()?;
    for _ in 0..fibers {
        servers.push(Server::start(&image, &spec, &rest)?);
        progress.step();
    }
    let in_fibers = Usage::now()?.since(before);
    for server in &mut servers {
        server.answer()?;
    }
    let mut own = 0;
    for server in servers {
        own += server.own_bytes()?;
    }
    Ok(Measured {
        fibers,
        in_fibers,
        own,
        folded,
        in_folds,
    })
}

/// Measures it.
pub(crate) fn measure(quick: bool) -> Result<Report, Error> {
    let extent = if quick { QUICK } else { FULL };
    let progress = Progress::new((extent.fibers + extent.folded) as u64);
    let measured = measure_so_many(extent, &progress)?;
    progress.finish();
    Ok(Report::new(measured, quick, Machine::of_this()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_servers_answer_in_fibers_and_folded() {
        let extent = Extent {
            fibers: 20,
            folded: 50,
        };
        let measured = measure_so_many(extent, &Progress::new(70)).unwrap();
        assert_eq!((measured.fibers, measured.folded), (20, 50));
        assert!(measured.own >= 20 * 4096);
        // Other tests run in this process meanwhile, so all that can be said is:
        assert!(measured.in_fibers.mappings >= 20);
    }
}
