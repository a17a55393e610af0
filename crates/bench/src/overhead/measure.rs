//! One round of runs of one program.

use crate::harness::{
    Compiled, End, Error, Freezable, Instance, Outcome, Program, Requester, Work,
};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// When the freeze is asked for: at this share of the run.
const FREEZE_AT: f64 = 0.1;
/// A freeze later than this is tried again: the asking thread was held up.
const LATEST_FREEZE: f64 = 0.5;
/// How often that is tried.
const ATTEMPTS: u32 = 20;

/// CPU times of one round, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// The plain module.
    pub plain: f64,
    /// The same again.
    pub plain_again: f64,
    /// The plain module with epoch interruption.
    pub epoch: f64,
    /// The plain module with polls and Asyncify.
    pub asyncify: Option<f64>,
    /// The freezable module, undisturbed.
    pub run: f64,
    /// The freezable module until it was frozen.
    pub until_frozen: f64,
    /// The rest, in the thaw module.
    pub rest: f64,
}

impl Round {
    /// The rest in the thaw module over the rest in the plain one: see [`super`].
    pub fn after_freeze(&self) -> f64 {
        self.rest / (self.plain * (1.0 - self.until_frozen / self.run))
    }
}

/// A program in all its forms.
#[derive(Clone, Copy)]
pub(super) struct Forms<'a> {
    pub plain: &'a Compiled,
    pub epoch: &'a Compiled,
    pub asyncify: Option<&'a Compiled>,
    pub freezable: &'a Freezable,
}

/// Runs one program in all its forms.
pub(super) struct Measure<'a> {
    name: &'static str,
    work: &'a Work,
    forms: Forms<'a>,
    requester: Requester,
    expected: Outcome,
}

impl<'a> Measure<'a> {
    /// Runs the plain module once, to know what must come out.
    pub fn new(name: &'static str, work: &'a Work, forms: Forms<'a>) -> Result<Measure<'a>, Error> {
        let (expected, _) = complete(name, Instance::birth(forms.plain, work)?)?;
        let freezable = forms.freezable;
        Ok(Measure {
            name,
            work,
            forms,
            requester: Requester::new(freezable.run.module.engine(), &freezable.flag)?,
            expected,
        })
    }

    /// Runs all forms; `turn` says which comes first.
    pub fn round(&mut self, turn: usize) -> Result<Round, Error> {
        let forms = [
            ("plain run", Some(self.forms.plain)),
            ("freezable run", Some(&self.forms.freezable.run)),
            ("second plain run", Some(self.forms.plain)),
            ("run with epoch interruption", Some(self.forms.epoch)),
            ("run with Asyncify", self.forms.asyncify),
        ];
        let mut times = [None; 5];
        for step in 0..forms.len() {
            let index = (step + turn) % forms.len();
            let (what, Some(form)) = forms[index] else {
                continue;
            };
            let (outcome, cpu) = complete(self.name, Instance::birth(form, self.work)?)?;
            self.check(what, outcome)?;
            times[index] = Some(cpu);
        }
        let asyncify = times[4];
        let [plain, run, plain_again, epoch, _] = times.map(|time| time.unwrap_or(f64::NAN));
        let (until_frozen, rest) = self.interrupted(run)?;
        Ok(Round {
            plain,
            plain_again,
            epoch,
            asyncify,
            run,
            until_frozen,
            rest,
        })
    }

    /// A run that is frozen once: CPU time until then, and of the rest. `whole` is what an
    /// undisturbed run takes.
    fn interrupted(&mut self, whole: f64) -> Result<(f64, f64), Error> {
        for _ in 0..ATTEMPTS {
            let mut instance = Instance::birth(&self.forms.freezable.run, self.work)?;
            let delay = Duration::from_secs_f64(whole * FREEZE_AT);
            let requester = &mut self.requester;
            let stretch = thread::scope(|scope| {
                let (go, start) = mpsc::channel::<Instant>();
                let asking = scope.spawn(move || match start.recv() {
                    Ok(start) => {
                        thread::sleep(delay.saturating_sub(start.elapsed()));
                        requester.set(true)
                    }
                    Err(mpsc::RecvError) => Ok(()),
                });
                // The thread waits for it; if that has failed, its result says why.
                let _ = go.send(Instant::now());
                let stretch = instance.run();
                match asking.join() {
                    Ok(asked) => asked.and(stretch),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            })?;
            self.requester.set(false)?;
            let until_frozen = stretch.cpu.as_secs_f64();
            if let End::Done(outcome) = stretch.end {
                self.check("freezable run", outcome)?;
                continue;
            }
            if until_frozen > whole * LATEST_FREEZE {
                continue;
            }
            let thawed = Instance::thaw(&self.forms.freezable.thaw, instance.freeze())?;
            let (outcome, rest) = complete(self.name, thawed)?;
            self.check("run that was frozen once", outcome)?;
            return Ok((until_frozen, rest));
        }
        Err(Error::NeverFrozen {
            program: self.name.into(),
            attempts: ATTEMPTS,
        })
    }

    fn check(&self, what: &'static str, outcome: Outcome) -> Result<(), Error> {
        if outcome == self.expected {
            return Ok(());
        }
        Err(Error::Differs {
            program: self.name.into(),
            what,
            expected: format!("{:?}", self.expected),
            got: format!("{outcome:?}"),
        })
    }
}

/// Runs to the end: what came out, and the CPU time in seconds.
fn complete(name: &str, mut instance: Instance) -> Result<(Outcome, f64), Error> {
    let stretch = instance.run()?;
    match stretch.end {
        End::Done(outcome) => Ok((outcome, stretch.cpu.as_secs_f64())),
        End::Frozen => Err(Error::Differs {
            program: name.into(),
            what: "undisturbed run",
            expected: "an end".into(),
            got: "a freeze that no one asked for".into(),
        }),
    }
}

/// The size at which a plain run of the program takes about so many milliseconds.
pub(super) fn size(program: &Program, plain: &Compiled, target_ms: f64) -> Result<u32, Error> {
    let unit = program.unit.max(1);
    let mut size = unit;
    loop {
        let instance = Instance::birth(plain, &program.work.at(size))?;
        let (_, seconds) = complete(program.name, instance)?;
        let factor = target_ms / (seconds * 1e3).max(1e-3);
        // Once it is near, one more step by proportion is exact enough.
        let scale = if factor > 4.0 { 4.0 } else { factor };
        let next = ((f64::from(size) * scale).round() as u32).max(unit);
        if factor <= 4.0 || next == size {
            return Ok(next);
        }
        size = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{epoch_engine, freezable_engine, plain_engine, programs, with_stack};

    /// All forms of a module but the one that needs a tool.
    fn forms(name: &str, wasm: &[u8]) -> Result<(Compiled, Compiled, Freezable), Error> {
        Ok((
            Compiled::plain(&plain_engine()?, name, wasm)?,
            Compiled::plain(&epoch_engine()?, name, wasm)?,
            Freezable::new(&freezable_engine()?, name, wasm)?,
        ))
    }

    #[test]
    fn the_rest_is_compared_with_what_the_plain_module_had_left() {
        let round = Round {
            plain: 10.0,
            plain_again: 10.0,
            epoch: 11.0,
            asyncify: None,
            run: 12.0,
            until_frozen: 3.0,
            rest: 9.0,
        };
        // A quarter was done; the plain module would have needed 7.5 for the rest.
        assert!((round.after_freeze() - 1.2).abs() < 1e-9);
    }

    #[test]
    fn every_kernel_gives_the_same_plain_freezable_and_frozen_once() {
        let (programs, _) = programs(None);
        with_stack(|| {
            let kernels: Vec<_> = programs.iter().filter(|program| program.kernel).collect();
            let (plain, epoch, freezable) = forms("kernels", &kernels[0].wasm)?;
            let forms = Forms {
                plain: &plain,
                epoch: &epoch,
                asyncify: None,
                freezable: &freezable,
            };
            for program in kernels {
                let size = size(program, &plain, 10.0)?;
                let work = program.work.at(size);
                let mut measure = Measure::new(program.name, &work, forms)?;
                let round = measure.round(1)?;
                assert!(round.plain > 0.0 && round.rest > 0.0, "{round:?}");
                assert!(round.epoch > 0.0 && round.asyncify.is_none(), "{round:?}");
                assert!(round.until_frozen < round.run, "{round:?}");
            }
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn the_accounts_server_answers_its_scripted_clients_in_every_form() {
        let (programs, _) = programs(None);
        let accounts = programs.iter().find(|p| p.name == "accounts").unwrap();
        with_stack(|| {
            let (plain, epoch, freezable) = forms("accounts", &accounts.wasm)?;
            let forms = Forms {
                plain: &plain,
                epoch: &epoch,
                // Any module that gives the same will do.
                asyncify: Some(&plain),
                freezable: &freezable,
            };
            let work = accounts.work.at(4000);
            let mut measure = Measure::new("accounts", &work, forms)?;
            let answers = measure.expected.answers.clone().unwrap();
            assert!(answers.starts_with("4001 answers"), "{answers}");
            assert!(
                measure
                    .expected
                    .output
                    .contains("connections 8, transfers 3500")
            );
            assert!(measure.round(0)?.asyncify.is_some());
            Ok(())
        })
        .unwrap();
    }
}
