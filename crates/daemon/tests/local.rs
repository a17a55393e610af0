//! Programs in the foreground, without a daemon.

mod common;

use common::{Echo, guest, within};
use daemon::local::{Ended, LocalError, Options, run};
use std::future::pending;
use tokio::sync::oneshot;
use wire::api::{ListenSpec, RunSpec};

fn hello(args: &[&str]) -> RunSpec {
    let args = ["hello"].iter().chain(args);
    RunSpec {
        args: args.map(|arg| (*arg).to_owned()).collect(),
        ..RunSpec::default()
    }
}

async fn ends(spec: RunSpec, module: Vec<u8>) -> Result<Ended, LocalError> {
    let options = Options::default();
    let running = run(&spec, &[], module, options, |_| {}, pending());
    within("it ends", running).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gives_its_exit_code() {
    let ended = ends(hello(&["exit", "7"]), guest("hello")).await.unwrap();
    assert_eq!(ended, Ended::Exited(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_says_what_and_where() {
    let ended = ends(hello(&["trap"]), guest("hello")).await.unwrap();
    let Ended::Trapped { reason, backtrace } = ended else {
        panic!("{ended:?}");
    };
    assert!(reason.contains("unreachable"), "{reason}");
    assert!(!backtrace.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_what_would_run_for_ever() {
    for args in [
        ["tick", "0", "1"],
        ["sleep", "1000000", ""],
        ["spin", "99999999999999", ""],
    ] {
        let (interrupt, interrupted) = oneshot::channel::<()>();
        let started = |_: &[_]| interrupt.send(()).unwrap();
        let interrupted = async { interrupted.await.unwrap() };
        let (spec, options) = (hello(&args), Options::default());
        let running = run(&spec, &[], guest("hello"), options, started, interrupted);
        let ended = within("it ends", running).await.unwrap();
        assert_eq!(ended, Ended::Interrupted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_serves_clients_and_ends_with_its_code() {
    use tokio::io::AsyncWriteExt;
    let spec = RunSpec {
        listen: vec![ListenSpec {
            address: "127.0.0.1:0".to_owned(),
            name: "main".to_owned(),
        }],
        ..RunSpec::default()
    };
    let (tell, told) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let listening = |listeners: &[wire::api::ListenerInfo]| {
            tell.send(listeners[0].address.clone()).unwrap();
        };
        let options = Options::default();
        run(&spec, &[], guest("echo"), options, listening, pending()).await
    });
    let address = within("it listens", told).await.unwrap();
    let mut client = Echo::connect(address.parse().unwrap()).await;
    client.round_trip(1_000_000).await;
    client.tcp.write_all(b"\nQUIT\n").await.unwrap();
    let ended = within("it ends", serving).await.unwrap().unwrap();
    assert_eq!(ended, Ended::Exited(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_told_apart() {
    let error = ends(RunSpec::default(), b"no wasm".to_vec())
        .await
        .unwrap_err();
    assert!(matches!(error, LocalError::Module(_)), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = RunSpec {
        listen: vec![ListenSpec {
            address: taken.local_addr().unwrap().to_string(),
            name: "main".to_owned(),
        }],
        ..RunSpec::default()
    };
    let error = ends(spec, guest("echo")).await.unwrap_err();
    assert!(matches!(error, LocalError::Listen(_)), "{error}");
}
