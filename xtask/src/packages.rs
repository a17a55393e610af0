//! Debian's packages, downloaded by apt and unpacked below target/, not installed: of another release
//! and another architecture than this machine's, without rights on it.

use crate::run;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where packages come from.
pub struct Source {
    /// The mirror; the one that apt uses here if absent.
    pub mirror: Option<String>,
    /// The release, `sid` say.
    pub suite: String,
}

/// Prefixes of packages, or of packages of an architecture, that others ask for and that nothing
/// here runs: a whole C compiler, and what only a compiler that runs there needs.
const UNUSED: [&str; 12] = [
    "binutils",
    "cpp",
    "gcc",
    "libasan",
    "libbinutils",
    "libcc1",
    "libgprofng",
    "libhwasan",
    "liblsan",
    "libtsan",
    "libubsan",
    "linux-libc-dev",
];
const UNUSED_THERE: [&str; 2] = ["libllvm", "libz3"];

/// The architecture of this machine, in Debian's words.
pub fn architecture() -> Result<String, String> {
    let printed = run::output(Command::new("dpkg").arg("--print-architecture"));
    let printed = printed.map_err(|error| format!("this is no Debian, nor like one: {error}"))?;
    Ok(printed.trim().to_owned())
}

/// The mirror of Debian's main archive that apt is told to use.
fn mirror() -> Result<String, String> {
    let format = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)";
    let targets = run::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    let mut mirrors = targets
        .lines()
        .filter_map(|line| line.strip_prefix("Debian|Debian|main|"));
    let mirror = mirrors.next().map(str::to_owned);
    mirror.ok_or_else(|| {
        "apt is not told of any mirror of Debian here; name one with --mirror".to_owned()
    })
}

/// apt's own state, apart from the machine's.
struct Apt(PathBuf);

impl Apt {
    fn new(folder: &Path, source: &Source, there: &str) -> Result<Apt, String> {
        let mirror = match &source.mirror {
            Some(mirror) => mirror.clone(),
            None => mirror()?,
        };
        let here = architecture()?;
        let folder = folder.join("apt");
        for part in ["lists/partial", "archives/partial", "parts"] {
            run::make_folder(&folder.join(part))?;
        }
        let keys = Path::new("/usr/share/keyrings/debian-archive-keyring.gpg");
        let signed = match keys.is_file() {
            true => format!(" signed-by={}", keys.display()),
            false => String::new(),
        };
        let suite = &source.suite;
        let sources = format!("deb [arch={here},{there}{signed}] {mirror} {suite} main\n");
        run::write(&folder.join("sources.list"), sources.as_bytes())?;
        run::write(&folder.join("status"), b"")?;
        let at = folder.display();
        // How to reach the mirror, and nothing else: the machine's settings may hold hooks that work on
        // its own caches.
        let acquire = run::output(Command::new("apt-config").args(["dump", "Acquire"]))?;
        let configuration = format!(
            "{acquire}\n\
             Dir::Etc::main \"-\";\n\
             Dir::Etc::parts \"{at}/parts\";\n\
             Dir::Etc::sourcelist \"{at}/sources.list\";\n\
             Dir::Etc::sourceparts \"-\";\n\
             Dir::State \"{at}\";\n\
             Dir::State::lists \"{at}/lists\";\n\
             Dir::State::status \"{at}/status\";\n\
             Dir::Cache \"{at}\";\n\
             APT::Architecture \"{here}\";\n\
             APT::Architectures {{ \"{here}\"; \"{there}\"; }};\n\
             APT::Install-Recommends \"0\";\n\
             APT::Sandbox::User \"\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
        );
        run::write(&folder.join("apt.conf"), configuration.as_bytes())?;
        let apt = Apt(folder);
        run::run(apt.command().arg("update").arg("-qq"))?;
        Ok(apt)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.env("APT_CONFIG", self.0.join("apt.conf"));
        command
    }

    /// The packages and all that they need, as apt takes their names.
    fn closure(&self, packages: &[&str], there: &str) -> Result<Vec<String>, String> {
        let mut list = self.command();
        list.args(["install", "--print-uris", "--yes", "-qq"]);
        let text = run::output(list.args(packages))?;
        let files = text.lines().filter(|line| line.starts_with('\''));
        let files = files.filter_map(|line| line.split(' ').nth(1));
        Ok(files.filter_map(|file| package_of(file, there)).collect())
    }
}

/// The package that a file holds, as apt takes its name; none if nothing here uses it.
fn package_of(file: &str, there: &str) -> Option<String> {
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, architecture) = (parts.next()?, parts.next_back()?);
    let unused = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if unused(&UNUSED) || architecture == there && unused(&UNUSED_THERE) {
        return None;
    }
    Some(match architecture {
        "all" => name.to_owned(),
        architecture => format!("{name}:{architecture}"),
    })
}

/// Unpacks packages with all that they need into `folder`/root, which is returned. Those of another
/// architecture are named `NAME:ARCHITECTURE`, with `there` as theirs. Does nothing if these very
/// packages are there.
pub fn unpack(
    folder: &Path,
    source: &Source,
    there: &str,
    packages: &[&str],
) -> Result<PathBuf, String> {
    let root = folder.join("root");
    let stamp = folder.join("unpacked");
    let wanted = format!("{} of {}\n", packages.join(" "), source.suite);
    if std::fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(root);
    }
    println!(
        "packages, unpacked into {}: {}",
        root.display(),
        packages.join(" ")
    );
    let failed = |error| format!("cannot remove {}: {error}", root.display());
    if root.exists() {
        std::fs::remove_dir_all(&root).map_err(failed)?;
    }
    // As on the system that they are made for.
    for (place, link) in [("usr/lib", "lib"), ("usr/lib64", "lib64")] {
        run::make_folder(&root.join(place))?;
        std::os::unix::fs::symlink(place, root.join(link))
            .map_err(|error| format!("cannot link {}: {error}", root.join(link).display()))?;
    }
    let apt = Apt::new(folder, source, there)?;
    let names = apt.closure(packages, there)?;
    let archives = apt.0.join("archives");
    run::run(
        apt.command()
            .current_dir(&archives)
            .args(["download", "-qq"])
            .args(names),
    )?;
    let entries = std::fs::read_dir(&archives)
        .map_err(|error| format!("cannot list {}: {error}", archives.display()))?;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_some_and(|extension| extension == "deb") {
            run::output(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
            let _ = std::fs::remove_file(&path);
        }
    }
    run::write(&stamp, wanted.as_bytes())?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_as_apt_takes_them_without_what_nothing_uses() {
        let of = |file| package_of(file, "arm64");
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(of("rustc_1.97.1+dfsg1-1_amd64.deb"), named("rustc:amd64"));
        assert_eq!(of("libc6_2.43-7_arm64.deb"), named("libc6:arm64"));
        assert_eq!(of("tzdata_2026a-1_all.deb"), named("tzdata"));
        assert_eq!(
            of("libllvm22_1%3a22.1.8-3_amd64.deb"),
            named("libllvm22:amd64")
        );
        assert_eq!(of("libllvm22_1%3a22.1.8-3_arm64.deb"), None);
        assert_eq!(of("gcc-16-base_16.2.0-4_arm64.deb"), None);
        assert_eq!(of("no package"), None);
    }
}
