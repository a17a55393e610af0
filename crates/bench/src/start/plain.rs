//! Starts of the same programs in plain Wasmtime.

use super::cycles::{self, Count};
use super::{Extent, Program};
use crate::harness::{Error, engine_error};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use wasmtime::{Config, Engine, ExternType, InstancePre, Linker, Module, Store};

/// What was measured; times in microseconds.
pub(super) struct Plain {
    pub start_us: Vec<f64>,
    /// With all earlier instances still there.
    pub new_us: Vec<f64>,
    pub end_us: Vec<f64>,
    pub one: Count,
    pub two: Count,
}

/// When the guest called the host for the first time.
#[derive(Default)]
struct First(Option<Instant>);

/// What the first host call fails with.
#[derive(Debug, thiserror::Error)]
#[error("the first host call")]
struct Called;

fn engine() -> Result<Engine, wasmtime::Error> {
    let mut config = Config::new();
    config.async_stack_size(4 << 20);
    config.max_wasm_stack(2 << 20);
    Engine::new(&config)
}

fn link(engine: &Engine, wasm: &[u8]) -> Result<InstancePre<First>, wasmtime::Error> {
    let module = Module::new(engine, wasm)?;
    let mut linker: Linker<First> = Linker::new(engine);
    for import in module.imports() {
        if let ExternType::Func(kind) = import.ty() {
            linker.func_new(import.module(), import.name(), kind, |mut caller, _, _| {
                caller.data_mut().0 = Some(Instant::now());
                Err(Called.into())
            })?;
        }
    }
    linker.instantiate_pre(&module)
}

/// Starts it and gives when it called the host, and its store.
fn start(module: &InstancePre<First>) -> Result<(Instant, Store<First>), wasmtime::Error> {
    let mut store = Store::new(module.module().engine(), First::default());
    let run = async {
        let instance = module.instantiate_async(&mut store).await?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        start.call_async(&mut store, ()).await
    };
    let result = match pin!(run).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Ok(()),
    };
    match (store.data().0, result) {
        (Some(first), Err(error)) if error.is::<Called>() => Ok((first, store)),
        (_, Err(error)) => Err(error),
        (_, Ok(())) => Err(wasmtime::Error::msg("it made no host call")),
    }
}

pub(super) fn measure(program: &Program, extent: Extent) -> Result<Plain, Error> {
    let doing = || engine_error(format!("{}: in plain Wasmtime", program.name));
    let engine = engine().map_err(doing())?;
    let module = link(&engine, &program.wasm).map_err(doing())?;
    let us = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64() * 1e6;
    let (mut alive, mut new_us) = (Vec::new(), Vec::new());
    for _ in 0..extent.alive {
        let began = Instant::now();
        let (first, store) = start(&module).map_err(doing())?;
        new_us.push(us(began, first));
        alive.push(store);
    }
    drop(alive);
    let (mut start_us, mut end_us) = (Vec::new(), Vec::new());
    for sample in 0..extent.samples + extent.samples / 10 {
        let began = Instant::now();
        let (first, store) = start(&module).map_err(doing())?;
        let end = Instant::now();
        drop(store);
        if sample >= extent.samples / 10 {
            start_us.push(us(began, first));
            end_us.push(us(end, Instant::now()));
        }
    }
    let (module, doing) = (&module, &doing);
    let count = |threads| {
        cycles::count(threads, extent.count, || {
            Ok(move || start(module).map(drop).map_err(doing()))
        })
    };
    Ok(Plain {
        start_us,
        new_us,
        end_us,
        one: count(1)?,
        two: count(2)?,
    })
}
