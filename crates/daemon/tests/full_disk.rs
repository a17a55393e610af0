//! A node whose disk is full: what it is asked to do fails with the reason, what runs goes on.

mod common;

use common::{Echo, Node, guest, within};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use wire::api::RunSpec;

/// A small file system of its own in a temporary directory.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// None, with the reason printed, where none can be made.
    fn new() -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=12m", "limosa-test"]);
        let mounted = mount.arg(directory.path()).output();
        let reason = match mounted {
            Ok(output) if output.status.success() => return Some(SmallDisk(directory)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("skipped: a small file system cannot be mounted here: {reason}");
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "{reason}"
        );
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all room that is left; gives it back when the file is removed.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        let mut length = 1 << 20;
        while length > 0 {
            if file.write_all(&vec![1; length]).is_err() {
                length /= 2;
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that was cut off may still hold files.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

async fn node_on(disk: &SmallDisk, name: &str, by: Option<&Node>) -> Node {
    let config = daemon::NodeConfig {
        state_dir: disk.path().join("state"),
        name: name.to_owned(),
        listen: "127.0.0.1:0".to_owned(),
        join: by.map(|by| by.ready.ticket.parse().unwrap()),
        ..Default::default()
    };
    let state = tempfile::tempdir().unwrap();
    Node::with(config, state).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_the_target_leaves_the_process_where_it_is() {
    let Some(disk) = SmallDisk::new() else { return };
    let a = Node::first("ant").await;
    let full = node_on(&disk, "full", Some(&a)).await;
    a.sees_alive(2).await;
    let (info, address) = a.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    client.send(100_000).await;
    let path = disk.path().join("echo.checkpoint");
    let file = tokio::fs::File::create(&path).await.unwrap();
    let filler = disk.fill();

    let error = within("the move", a.client.migrate("echo", "full")).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    client.receive_all().await;
    let seen = a.client.inspect("echo").await.unwrap();
    assert_eq!((seen.node, seen.epoch), (a.ready.node, info.epoch));
    let error = full.try_serve("web", "httpd", None, "127.0.0.1:0").await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    assert!(full.client.processes(true).await.unwrap().is_empty());
    // Nothing half-written stays.
    let images = fs::read_dir(full.config.state_dir.join("images")).unwrap();
    assert_eq!(images.count(), 0);

    // A checkpoint onto it: the process runs on, and there is no file that could be restored.
    let mut file = tokio::io::BufWriter::new(file);
    let error = a.client.checkpoint("echo", &mut file).await.unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    let written = fs::read(&path).unwrap();
    let error = a.client.restore(written, None, None, &[]).await;
    error.unwrap_err();
    client.round_trip(1000).await;

    fs::remove_file(filler).unwrap();
    within("the move", a.client.migrate("echo", "full"))
        .await
        .unwrap();
    client.round_trip(1000).await;
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_whose_disk_is_full_refuses_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::new() else { return };
    let node = node_on(&disk, "full", None).await;
    let (_, address) = node.serve("echo", "echo", None).await;
    let mut client = Echo::connect(address).await;
    let filler = disk.fill();
    // The program is here already; what is missing is room for records, ends and logs.
    let spec = RunSpec {
        name: Some("ticks".to_owned()),
        args: ["hello", "tick", "2000", "0"].map(str::to_owned).to_vec(),
        ..RunSpec::default()
    };
    let started = node.client.run(&spec, &[], &guest("hello")).await;
    let error = started.unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    client.round_trip(1000).await;
    let mut left = node.client.processes(false).await.unwrap();
    left.retain(|process| process.name != "echo");
    assert!(left.is_empty(), "{left:?}");

    fs::remove_file(filler).unwrap();
    node.client.run(&spec, &[], &guest("hello")).await.unwrap();
    let filler = disk.fill();
    let ended = within("it ends", node.client.wait("ticks")).await.unwrap();
    assert_eq!(ended.exit_code, Some(0));
    let mut logs = node.client.logs("ticks", false, None).await.unwrap();
    let mut written = Vec::new();
    while let Some((_, bytes)) = logs.next().await.unwrap() {
        written.extend(bytes);
    }
    assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 2000);
    node.client.remove("ticks", false).await.unwrap();
    client.round_trip(1000).await;
    fs::remove_file(filler).unwrap();
    client.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_cannot_start_on_a_full_disk_and_says_so() {
    let Some(disk) = SmallDisk::new() else { return };
    let _filler = disk.fill();
    let config = daemon::NodeConfig {
        state_dir: disk.path().join("state"),
        listen: "127.0.0.1:0".to_owned(),
        ..Default::default()
    };
    let started = Node::with(config, tempfile::tempdir().unwrap()).await;
    let Err(error) = started else {
        panic!("it has started");
    };
    let error = error.to_string();
    assert!(
        error.contains("No space left") && error.contains("state"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_leaves_a_full_disk_and_comes_back_with_all_its_files() {
    let Some(disk) = SmallDisk::new() else { return };
    let a = Node::first("ant").await;
    let full = node_on(&disk, "full", Some(&a)).await;
    a.sees_alive(2).await;
    let content: Vec<u8> = (0..1_000_000u32).map(|at| (at / 7 % 251) as u8).collect();
    let spec = RunSpec {
        name: Some("ticks".to_owned()),
        args: ["hello", "tick", "100000", "1"].map(str::to_owned).to_vec(),
        files: vec![wire::api::FileSpec {
            path: "/large".to_owned(),
            directory: false,
            link: None,
            length: content.len() as u64,
        }],
        ..RunSpec::default()
    };
    let files = [content.clone()];
    let started = full.client.run(&spec, &files, &guest("hello")).await;
    started.unwrap();
    let filler = disk.fill();
    let leaves = || async {
        within("a move", a.client.migrate("ticks", "ant"))
            .await
            .unwrap()
            .bytes
    };
    let returns = || async {
        within("a move", a.client.migrate("ticks", "full"))
            .await
            .unwrap()
            .bytes
    };
    // It goes, and nothing half-written of its files stays.
    assert!(leaves().await > 1_000_000);
    let kept = full.config.state_dir.join("kept");
    assert!(returns().await > 1_000_000);
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 0);

    fs::remove_file(filler).unwrap();
    leaves().await;
    common::until("the files are kept", || async {
        (fs::read_dir(&kept).unwrap().count() == 1).then_some(())
    })
    .await;
    assert!(returns().await < 900_000);
    let mut file = Vec::new();
    a.client.checkpoint("ticks", &mut file).await.unwrap();
    let checkpoint = wire::checkpoint::Checkpoint::decode(&file).unwrap();
    let snapshot = wire::snapshot::Snapshot::decode(checkpoint.snapshot).unwrap();
    let large = vm::read_file(&snapshot.kernel.files, b"/large").unwrap();
    assert!(large == content);
}
