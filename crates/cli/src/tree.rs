//! Directories for a process, as the command line names them: for `--dir` and copied volumes they are
//! read here, and the copy becomes part of the process.

use crate::failure::{Failure, code};
use daemon::MAX_FILES_BYTES;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use wire::api::FileSpec;
use wire::snapshot::Binding;

/// Files, directories and links with the contents of the files among them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// What is where, parents first.
    pub files: Vec<FileSpec>,
    /// The content of each of `files`, empty for what is no regular file.
    pub contents: Vec<Vec<u8>>,
    /// Bytes of all contents.
    bytes: u64,
}

/// `SRC:DST` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub source: PathBuf,
    /// Absolute, without `.`, `..` or doubled slashes; "/" is the root.
    pub target: String,
}

impl std::str::FromStr for Mount {
    type Err = String;

    fn from_str(text: &str) -> Result<Mount, String> {
        let (source, target) = text.rsplit_once(':').ok_or(
            "give SRC:DST, a directory here and its path in the process, as in ./site:/srv",
        )?;
        if source.is_empty() {
            return Err("SRC is empty".to_owned());
        }
        if !target.starts_with('/') {
            return Err(format!("DST must be absolute, as in `{source}:/{target}`"));
        }
        let mut normal = String::new();
        for part in Path::new(target).components() {
            match part {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    normal.push('/');
                    normal.push_str(&name.to_string_lossy());
                }
                Component::ParentDir | Component::Prefix(_) => {
                    return Err("DST must not contain `..`".to_owned());
                }
            }
        }
        if normal.is_empty() {
            normal.push('/');
        }
        Ok(Mount {
            source: source.into(),
            target: normal,
        })
    }
}

/// `SRC:DST[:copy|share|pin]` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeArg {
    /// What is to be where.
    pub mount: Mount,
    /// What becomes of it in a move; none if it is copied.
    pub binding: Option<Binding>,
}

impl std::str::FromStr for VolumeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<VolumeArg, String> {
        let (mount, binding) = match text.rsplit_once(':') {
            Some((mount, "copy")) => (mount, None),
            Some((mount, "share")) => (mount, Some(Binding::Share)),
            Some((mount, "pin")) => (mount, Some(Binding::Pin)),
            _ => (text, None),
        };
        let mount: Mount = mount.parse()?;
        if binding.is_some() && mount.target == "/" {
            return Err(
                "a directory of the node cannot take the place of `/`; give it one \
                        beneath, or a copy"
                    .to_owned(),
            );
        }
        Ok(VolumeArg { mount, binding })
    }
}

impl Tree {
    /// Reads all mounts, in their order.
    pub fn read(mounts: &[Mount]) -> Result<Tree, Failure> {
        let mut tree = Tree::default();
        for mount in mounts {
            let metadata = fs::metadata(&mount.source)
                .map_err(|error| Failure::file("read", &mount.source, &error))?;
            // The parents of DST are made where they are missing.
            for (end, _) in mount.target.match_indices('/').skip(1) {
                let parent = mount.target.get(..end).unwrap_or_default();
                tree.directory(parent.to_owned());
            }
            if metadata.is_dir() {
                tree.descend(&mount.source, &mount.target)?;
            } else if metadata.is_file() {
                tree.file(&mount.source, mount.target.clone())?;
            } else {
                return Err(special(&mount.source));
            }
        }
        Ok(tree)
    }

    fn descend(&mut self, source: &Path, target: &str) -> Result<(), Failure> {
        if target != "/" {
            self.directory(target.to_owned());
        }
        let failed = |error| Failure::file("read", source, &error);
        let mut entries = fs::read_dir(source)
            .and_then(|entries| entries.collect::<Result<Vec<_>, _>>())
            .map_err(failed)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Err(not_text(&path));
            };
            let inside = format!("{}/{name}", target.trim_end_matches('/'));
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                self.descend(&path, &inside)?;
            } else if kind.is_file() {
                self.file(&path, inside)?;
            } else if kind.is_symlink() {
                let link = fs::read_link(&path)
                    .map_err(|error| Failure::file("read", &path, &error))?
                    .into_os_string()
                    .into_string()
                    .map_err(|_| not_text(&path))?;
                self.add(inside, false, Some(link), Vec::new());
            } else {
                return Err(special(&path));
            }
        }
        Ok(())
    }

    fn file(&mut self, source: &Path, path: String) -> Result<(), Failure> {
        let room = MAX_FILES_BYTES.saturating_sub(self.bytes);
        let mut content = Vec::new();
        // One more, to see that there is more.
        File::open(source)
            .and_then(|file| file.take(room + 1).read_to_end(&mut content))
            .map_err(|error| Failure::file("read", source, &error))?;
        let length = content.len() as u64;
        if length > room {
            return Err(Failure::new(format!(
                "with `{}` the files given by --dir and --volume have more than {} MiB, the most that a process \
                 can be given; leave some out",
                source.display(),
                MAX_FILES_BYTES >> 20
            )));
        }
        self.bytes += length;
        self.add(path, false, None, content);
        Ok(())
    }

    fn directory(&mut self, path: String) {
        if !self
            .files
            .iter()
            .any(|file| file.directory && file.path == path)
        {
            self.add(path, true, None, Vec::new());
        }
    }

    fn add(&mut self, path: String, directory: bool, link: Option<String>, content: Vec<u8>) {
        self.files.push(FileSpec {
            path,
            directory,
            link,
            length: content.len() as u64,
        });
        self.contents.push(content);
    }
}

fn special(path: &Path) -> Failure {
    let path = path.display();
    Failure::new(format!(
        "`{path}` is neither a file, a directory nor a link, and cannot travel with a process; \
         leave it out of what is given by --dir or --volume"
    ))
}

fn not_text(path: &Path) -> Failure {
    let path = path.display();
    let message = format!("the name or target of `{path}` is not UTF-8; rename it");
    Failure::with_code(code::FAILED, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Mount, String> {
        text.parse()
    }

    #[test]
    fn a_mount_names_a_source_and_an_absolute_target() {
        let found = mount("a:b/c:/srv//./www/").unwrap();
        assert_eq!(found.source, Path::new("a:b/c"));
        assert_eq!(found.target, "/srv/www");
        assert_eq!(mount(".:/").unwrap().target, "/");
        for wrong in ["a", ":/x", "a:x", "a:/x/../y", "a:"] {
            assert!(mount(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_volume_is_copied_unless_it_says_otherwise() {
        let volume = |text: &str| text.parse::<VolumeArg>();
        let found = volume("a:b:/srv:share").unwrap();
        assert_eq!(found.mount, mount("a:b:/srv").unwrap());
        assert_eq!(found.binding, Some(Binding::Share));
        assert_eq!(volume("a:/b:pin").unwrap().binding, Some(Binding::Pin));
        for copied in ["a:/b", "a:/b:copy", "a:/:copy"] {
            assert_eq!(volume(copied).unwrap().binding, None, "{copied}");
        }
        for wrong in [
            "a:/b:shared",
            "a:share",
            "a:/:share",
            ":/b:pin",
            "a:/x/../y:pin",
        ] {
            assert!(volume(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_tree_is_read_with_its_links_and_parents_first() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("b/empty")).unwrap();
        fs::write(root.join("a.txt"), "hello").unwrap();
        fs::write(root.join("b/c"), "").unwrap();
        std::os::unix::fs::symlink("../a.txt", root.join("b/link")).unwrap();
        let mounts = [mount(&format!("{}:/x/y", root.display())).unwrap()];
        let tree = Tree::read(&mounts).unwrap();
        let paths: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
        let expected = [
            "/x",
            "/x/y",
            "/x/y/a.txt",
            "/x/y/b",
            "/x/y/b/c",
            "/x/y/b/empty",
            "/x/y/b/link",
        ];
        assert_eq!(paths, expected);
        assert_eq!(tree.contents[2], b"hello");
        assert_eq!(tree.files[2].length, 5);
        assert_eq!(tree.files[6].link.as_deref(), Some("../a.txt"));
        assert!(tree.files[5].directory && !tree.files[4].directory);
    }

    #[test]
    fn more_than_a_process_can_be_given_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        // With a hole: it takes no room on the disk.
        let file = File::create(&path).unwrap();
        file.set_len(64 << 10).unwrap();
        let mount = mount(&format!("{}:/x", path.display())).unwrap();
        let mut tree = Tree {
            bytes: MAX_FILES_BYTES - (64 << 10),
            ..Tree::default()
        };
        tree.file(&mount.source, "/a".to_owned()).unwrap();
        let failure = format!("{:?}", tree.file(&mount.source, "/b".to_owned()));
        assert!(failure.contains("1024 MiB"), "{failure}");
    }

    #[test]
    fn a_single_file_can_be_placed_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        fs::write(&path, "x=1").unwrap();
        let mounts = [mount(&format!("{}:/etc/app.conf", path.display())).unwrap()];
        let tree = Tree::read(&mounts).unwrap();
        let paths: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["/etc", "/etc/app.conf"]);
    }

    #[test]
    fn what_cannot_travel_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("door");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mounts = [mount(&format!("{}:/", directory.path().display())).unwrap()];
        let failure = format!("{:?}", Tree::read(&mounts).unwrap_err());
        assert!(
            failure.contains("door") && failure.contains("cannot travel"),
            "{failure}"
        );

        let missing = [mount("/nonexistent:/x").unwrap()];
        let failure = Tree::read(&missing).unwrap_err();
        assert_eq!(failure.report(), code::NOT_FOUND);
    }
}
