//! The demo itself, in its quick form: real processes, real sockets.

mod common;

use common::{Done, guest, limosa};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// The demo with a directory of its own for temporary files, which must be empty afterwards.
struct Demo {
    temporary: tempfile::TempDir,
}

impl Demo {
    fn new() -> Demo {
        Demo {
            temporary: tempfile::tempdir().unwrap(),
        }
    }

    fn command(&self) -> Command {
        let mut command = limosa();
        command.arg("demo").env("TMPDIR", self.temporary.path());
        command
    }

    #[track_caller]
    fn left_nothing(&self) {
        let left = fs::read_dir(self.temporary.path()).unwrap().count();
        assert_eq!(left, 0, "files are left behind");
        let mark = self.temporary.path().to_str().unwrap();
        assert_eq!(
            processes_with(mark),
            Vec::<u32>::new(),
            "processes are left behind"
        );
    }
}

/// Processes whose command line holds the text.
fn processes_with(text: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(text).then_some(pid)
    });
    pids.collect()
}

/// A process that is nobody's child any more, and whose end is waited for.
struct Watched(u32, std::os::fd::OwnedFd);

impl Watched {
    fn new(pid: u32) -> Watched {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let number = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        Watched(pid, pidfd_open(number, PidfdFlags::empty()).unwrap())
    }

    fn ends(self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let patience = Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        let mut exit = [PollFd::new(&self.1, PollFlags::IN)];
        let ended = poll(&mut exit, Some(&patience)).unwrap();
        assert_eq!(ended, 1, "process {} outlives its parent", self.0);
    }
}

#[test]
fn clients_notice_nothing_of_the_moves() {
    let demo = Demo::new();
    let plot = tempfile::tempdir().unwrap();
    let svg = plot.path().join("plot.svg");
    let output = demo
        .command()
        .args(["--quick", "--json", "--svg"])
        .arg(&svg)
        .output()
        .unwrap();
    let done = Done::from(output);
    let report = done.json();
    assert_eq!(done.code, 0, "{report:#} {}", done.err);
    for field in ["lost", "wrong", "reconnects", "failed_moves"] {
        assert_eq!(report[field], 0, "{field}: {report:#}");
    }
    assert_eq!(report["moves"], 6);
    assert_eq!(report["clients"], 32);
    assert!(report["requests"].as_u64().unwrap() > 1000, "{report:#}");
    assert!(report["downtime_ms"]["max"].as_f64().unwrap() > 0.0);
    assert_eq!(done.out.lines().count(), 1, "one object and nothing else");
    assert!(fs::read_to_string(svg).unwrap().contains("</svg>"));
    demo.left_nothing();
}

#[test]
fn any_server_can_be_moved() {
    for (name, protocol) in [("echo", "echo"), ("httpd", "http")] {
        let demo = Demo::new();
        let mut command = demo.command();
        command
            .args([
                "--quick",
                "--moves",
                "3",
                "--clients",
                "8",
                "--svg",
                "none",
                "--guest",
            ])
            .arg(guest(name));
        let done = Done::from(command.output().unwrap());
        let text = done.succeeds();
        assert!(
            done.err.contains(&format!("it speaks {protocol}")),
            "{}",
            done.err
        );
        for expected in ["moves", "downtime", "lost", "▲", "10 ms"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        demo.left_nothing();
    }
}

#[test]
fn a_program_that_is_no_server_is_refused_and_leaves_nothing() {
    let demo = Demo::new();
    let mut command = demo.command();
    command
        .args(["--quick", "--svg", "none", "--guest"])
        .arg(guest("hello"));
    let done = Done::from(command.output().unwrap());
    done.fails(1, &["limosa: "]);
    demo.left_nothing();
    let missing = demo
        .command()
        .args(["--guest", "/nonexistent.wasm"])
        .output();
    Done::from(missing.unwrap()).fails(3, &["/nonexistent.wasm"]);
    demo.left_nothing();
}

#[test]
fn an_interrupt_or_a_kill_leaves_nothing_behind() {
    let signals = [
        ("INT", Some(130)),
        ("TERM", Some(143)),
        ("HUP", Some(129)),
        ("KILL", None),
    ];
    for (signal, code) in signals {
        let demo = Demo::new();
        let mut child = demo
            .command()
            .args(["--moves", "1000", "--svg", "none"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let moving = lines
            .by_ref()
            .any(|line| line.unwrap().contains("moving it"));
        assert!(moving, "it came as far as moving");
        let mark = demo.temporary.path().to_str().unwrap();
        let nodes = processes_with(mark);
        assert_eq!(nodes.len(), 3);
        let nodes: Vec<Watched> = nodes.into_iter().map(Watched::new).collect();
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        let status = child.wait().unwrap();
        assert_eq!(status.code(), code);
        if code.is_none() {
            // The nodes end by themselves: nobody is left to wait for them.
            nodes.into_iter().for_each(Watched::ends);
            assert_eq!(processes_with(mark), Vec::<u32>::new());
        }
        demo.left_nothing();
    }
}
