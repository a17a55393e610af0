//! The compiler of C and C++ for guests: `ziglang` from PyPI, installed once under target/guest-toolchain.

use crate::run;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A compiler that is ready to use.
pub struct Toolchain {
    python: PathBuf,
    /// Where its packages are, if they are not in an environment of their own.
    packages: Option<PathBuf>,
    folder: PathBuf,
}

fn folder() -> PathBuf {
    run::root().join("target/guest-toolchain")
}

fn environment_python(folder: &Path) -> PathBuf {
    folder.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    })
}

/// The Python of this machine: $PYTHON, python3 or python.
pub fn system_python() -> Result<PathBuf, String> {
    let chosen = std::env::var_os("PYTHON").map(PathBuf::from);
    for candidate in chosen
        .into_iter()
        .chain(["python3".into(), "python".into()])
    {
        let version = "import sys; sys.exit(sys.version_info < (3, 8))";
        if run::output(Command::new(&candidate).args(["-c", version])).is_ok() {
            return Ok(candidate);
        }
    }
    Err(
        "Python 3 was not found: install it (Debian: apt install python3 python3-venv), or name \
         it in $PYTHON"
            .into(),
    )
}

impl Toolchain {
    /// The compiler if it is installed already; nothing is downloaded.
    pub fn installed(specification: &str) -> Option<Self> {
        let folder = folder();
        let stamp = std::fs::read_to_string(folder.join("installed")).ok()?;
        let (installed, place) = stamp.split_once('\n')?;
        let packages = folder.join("packages");
        let toolchain = match place.trim_end() {
            "environment" => Self {
                python: environment_python(&folder),
                packages: None,
                folder,
            },
            "packages" => Self {
                python: system_python().ok()?,
                packages: Some(packages),
                folder,
            },
            _ => return None,
        };
        (installed == specification && toolchain.works()).then_some(toolchain)
    }

    /// Installs the compiler if it is not there.
    pub fn install(specification: &str) -> Result<Self, String> {
        if let Some(toolchain) = Self::installed(specification) {
            return Ok(toolchain);
        }
        let folder = folder();
        run::make_folder(&folder)?;
        let python = system_python()?;
        println!("installing {specification} into target/guest-toolchain");
        let mut toolchain = Self {
            python: environment_python(&folder),
            packages: None,
            folder: folder.clone(),
        };
        // Some systems ship Python without the parts that make environments; a folder of packages
        // does as well.
        let pip = [
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
        ];
        let environment = run::run(Command::new(&python).args(["-m", "venv"]).arg(&folder))
            .and_then(|()| run::run(Command::new(&toolchain.python).args(pip).arg(specification)));
        let place = match environment {
            Ok(()) => "environment",
            Err(reason) => {
                println!("{reason}\nwithout an environment, then: into a folder of packages");
                let packages = folder.join("packages");
                run::run(
                    Command::new(&python)
                        .args(pip)
                        .args(["--upgrade", "--target"])
                        .arg(&packages)
                        .arg(specification),
                )
                .map_err(|second| {
                    format!(
                        "cannot install {specification} ({reason}; {second}): it needs Python's \
                         venv or pip (Debian: apt install python3-venv python3-pip) and access \
                         to PyPI"
                    )
                })?;
                toolchain.packages = Some(packages);
                toolchain.python = python;
                "packages"
            }
        };
        if !toolchain.works() {
            return Err(format!(
                "{specification} was installed but does not run; remove target/guest-toolchain \
                 and try again"
            ));
        }
        run::write(
            &folder.join("installed"),
            format!("{specification}\n{place}\n").as_bytes(),
        )?;
        Ok(toolchain)
    }

    fn works(&self) -> bool {
        run::output(self.zig().arg("version")).is_ok()
    }

    fn zig(&self) -> Command {
        let mut command = Command::new(&self.python);
        if let Some(packages) = &self.packages {
            command.env("PYTHONPATH", packages);
        }
        // Its cache, with the C library that it builds for itself, belongs to this project too.
        command
            .env("ZIG_GLOBAL_CACHE_DIR", self.folder.join("cache"))
            .env("ZIG_LOCAL_CACHE_DIR", self.folder.join("cache"))
            .args(["-m", "ziglang"]);
        command
    }

    /// One of its tools, as a shell runs it.
    pub fn shell(&self, tool: &str) -> String {
        let mut command = self.zig();
        command.arg(tool);
        let mut words = vec!["env".to_owned()];
        for (name, value) in command.get_envs() {
            let value = run::shell_word(value.unwrap_or_default());
            words.push(format!("{}={value}", name.to_string_lossy()));
        }
        words.push(run::shell_word(command.get_program()));
        words.extend(command.get_args().map(run::shell_word));
        words.join(" ")
    }

    /// The C compiler; give it flags and sources.
    pub fn cc(&self) -> Command {
        let mut command = self.zig();
        command.arg("cc");
        command
    }

    /// The C++ compiler.
    pub fn cxx(&self) -> Command {
        let mut command = self.zig();
        command.arg("c++");
        command
    }
}
