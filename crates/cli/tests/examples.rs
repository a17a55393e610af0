//! Every example of every help text, and every command line of the README, run as it is written:
//! only ports, addresses, tickets and the names of nodes are put in.

mod common;

use common::{Done, Node, guest, run};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

const COMMANDS: &str = "run ps inspect logs wait stop kill rm migrate checkpoint restore up join down \
                        forget nodes ticket demo bench completion";

/// Examples that other tests run in another form, since they take long or never end.
const ELSEWHERE: [&str; 8] = [
    "limosa forget two",               // tests/cli.rs: the node must be dead
    "limosa forget --force two",       // the same
    "limosa demo",                     // tests/demo.rs, with --quick
    "limosa demo --quick --json",      // tests/demo.rs
    "limosa demo --guest server.wasm", // tests/demo.rs, with --quick
    "limosa bench overhead --json",    // the bench's own tests
    "limosa completion zsh > \"${fpath[1]}/_limosa\"", // the array is zsh's
    "limosa up",                       // every test that starts a node
];

/// The examples of a help text, without what is said beside them.
fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let command = |line: &str| {
        let line = line.strip_prefix("  ")?;
        let end = line.find("  ").unwrap_or(line.len());
        line.starts_with("limosa").then(|| line[..end].to_owned())
    };
    lines.filter_map(command).collect()
}

/// Two nodes and what the examples talk about.
struct World {
    directory: tempfile::TempDir,
    one: Node,
    _two: Node,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for (name, program) in [
            ("hello", "hello"),
            ("tool", "hello"),
            ("server", "echo"),
            ("bank", "httpd"),
        ] {
            fs::copy(guest(program), root.join(format!("{name}.wasm"))).unwrap();
        }
        fs::create_dir_all(root.join("data")).unwrap();
        fs::write(root.join("data/input"), "x").unwrap();
        fs::create_dir_all(root.join("photos")).unwrap();
        for place in [
            ".local/share/bash-completion/completions",
            ".config/fish/completions",
            "bin",
        ] {
            fs::create_dir_all(root.join(place)).unwrap();
        }
        // Elsewhere is here.
        let ssh = root.join("bin/ssh");
        fs::write(&ssh, "#!/bin/sh\nshift\nexec \"$@\"\n").unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_limosa"), root.join("bin/limosa")).unwrap();
        let one = Node::start("one", None);
        let two = Node::start("two", Some(one.ticket()));
        World {
            directory,
            one,
            _two: two,
        }
    }

    /// A command line for the shell, in this world.
    fn shell(&self, line: &str, state: &Path) -> Command {
        let root = self.directory.path();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-o", "pipefail", "-c", line])
            .current_dir(root)
            .env("HOME", root)
            .env("PATH", format!("{}:{path}", root.join("bin").display()))
            .env("LIMOSA_STATE", state)
            .env_remove("LIMOSA_LOG")
            .env(
                "XDG_CACHE_HOME",
                concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"),
            )
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn does(&self, line: &str) -> Done {
        let done = Done::from(self.shell(line, &self.one.state()).output().unwrap());
        assert_eq!(done.code, 0, "{line}: {}{}", done.out, done.err);
        done
    }

    /// No process but `bank`; or, to be restored, a checkpoint of one that listens.
    fn prepare(&self, restores: bool) {
        self.does("limosa rm -f $(limosa ps -aq)");
        if restores {
            self.does("limosa run -d --name bank --listen 0 bank.wasm");
            self.does("limosa checkpoint bank -o bank.snap && limosa rm -f bank");
        } else {
            // Without a listener, so that a second one finds no port in use.
            self.does("limosa run -d --name bank hello.wasm -- tick 0 200");
        }
    }

    /// Puts in what an example cannot know.
    fn adapt(&self, example: &str, ticket: Option<&str>) -> (String, u16) {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let words = example.split(' ').map(|word| match word {
            "8080" | "8081" => port.to_string(),
            "web=0.0.0.0:8080" => format!("web=0.0.0.0:{port}"),
            "192.0.2.7:7420" | "192.0.2.8:7420" => "127.0.0.1:0".to_owned(),
            "NODE" => "two".to_owned(),
            "/tmp/two" => self.directory.path().join("second").display().to_string(),
            word if word.starts_with("limosa-") => ticket.unwrap().to_owned(),
            word => word.to_owned(),
        });
        (words.collect::<Vec<_>>().join(" "), port)
    }

    fn try_out(&self, example: &str) {
        println!("{example}");
        let words: Vec<&str> = example.split_whitespace().collect();
        let has = |word: &str| words.contains(&word);
        // Each joins a fleet of its own, where every name is free.
        let other = has("join").then(|| Node::start("other", None));
        let (line, port) = self.adapt(example, other.as_ref().map(Node::ticket));
        // A node of its own, which is ended again.
        if has("up") || has("join") {
            let state = self.directory.path().join("own");
            let background = if has("-d") { "" } else { " -d" };
            let up = format!("{line}{background}");
            let done = Done::from(self.shell(&up, &state).output().unwrap());
            assert!(done.succeeds().contains(" is up; "), "{up}");
            let state = match has("--state") {
                true => self.directory.path().join("second"),
                false => state,
            };
            let down = self.shell("limosa down", &state).output();
            Done::from(down.unwrap()).succeeds();
            fs::remove_dir_all(state).unwrap();
            return;
        }
        match has("run") {
            true => drop(self.does("limosa rm -f $(limosa ps -aq)")),
            false => self.prepare(words.get(1) == Some(&"restore")),
        }
        if has("-f") && has("logs") {
            // Follows until the process ends.
            let follower = self.shell(&line, &self.one.state()).spawn().unwrap();
            self.does("limosa kill bank");
            assert!(follower.wait_with_output().unwrap().status.success());
        } else if line.starts_with("limosa run server.wasm --listen") {
            self.serve(&line, port);
        } else {
            self.does(&line);
        }
    }

    /// A server in the foreground ends when its client says so.
    fn serve(&self, line: &str, port: u16) {
        let mut server = self.shell(line, &self.one.state()).spawn().unwrap();
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(_) => assert!(server.try_wait().unwrap().is_none(), "{line} has ended"),
            }
            std::thread::yield_now();
        };
        stream.write_all(b"QUIT\n").unwrap();
        let mut heard = String::new();
        BufReader::new(stream).read_line(&mut heard).unwrap();
        assert_eq!(heard, "QUIT\n");
        assert!(server.wait().unwrap().success());
    }
}

#[test]
fn every_example_of_the_help_works_as_it_is_written() {
    let world = World::new();
    let mut all = examples(run(["--help"]).succeeds());
    assert!(all.len() >= 6, "{all:?}");
    for command in COMMANDS.split_whitespace() {
        all.extend(examples(run([command, "--help"]).succeeds()));
    }
    assert!(all.len() >= 30, "{all:?}");
    for skipped in ELSEWHERE {
        assert!(
            all.iter().any(|line| line == skipped),
            "{skipped} is no example"
        );
    }
    all.retain(|line| !ELSEWHERE.contains(&&line[..]));
    all.iter().for_each(|example| world.try_out(example));
}

#[test]
fn every_command_line_of_the_readme_works_as_it_is_written() {
    let world = World::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join("README.md")).unwrap();
    let mut lines = Vec::new();
    let mut shell = false;
    for line in text.lines() {
        match line {
            "```sh" => shell = true,
            "```" => shell = false,
            line if shell && line.starts_with("limosa ") => {
                let end = line.find("  ").unwrap_or(line.len());
                lines.push(line[..end].to_owned());
            }
            _ => {}
        }
    }
    // What stands in sentences.
    let text = text.replace('\n', " ");
    let inline = text.split('`').skip(1).step_by(2);
    lines.extend(
        inline
            .filter(|code| code.starts_with("limosa "))
            .map(str::to_owned),
    );
    assert!(lines.len() >= 10, "{lines:?}");
    // Said of any command.
    lines.retain(|line| line != "limosa COMMAND --help");
    lines.iter().for_each(|example| world.try_out(example));
}

#[test]
fn the_completions_for_bash_are_a_script_that_bash_takes() {
    let world = World::new();
    world.does("limosa completion bash > script && bash -n script");
    let offered = world.does(
        "source ./script && COMP_WORDS=(limosa mi) COMP_CWORD=1 && _limosa limosa mi limosa && \
         echo \"${COMPREPLY[@]}\"",
    );
    assert_eq!(offered.succeeds(), "migrate");
}
