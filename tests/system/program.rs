//! The program under test, its files, and running it within a time limit.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A file that is fetched, not committed, and is not here.
#[derive(Debug)]
pub(crate) struct Missing(String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "missing: {}", self.0)
    }
}

impl std::error::Error for Missing {}

static ORRERY: OnceLock<PathBuf> = OnceLock::new();

/// The project's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("tests/ is inside it")
}

/// Builds the program, or takes the one `$ORRERY` names.
pub(crate) fn prepare() -> Result<()> {
    let path = match std::env::var_os("ORRERY") {
        Some(path) => PathBuf::from(path),
        None => {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let args = ["build", "--quiet", "--release", "--package", "orrery-native"];
            let status = Command::new(cargo).args(args).current_dir(root()).status()?;
            if !status.success() {
                bail!("cargo build: {status}");
            }
            let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
            root().join(target).join("release/orrery")
        }
    };
    let path = path.canonicalize().with_context(|| format!("{}", path.display()))?;
    ORRERY.set(path).ok().context("prepared once")
}

/// A file of `guests/`.
pub(crate) fn guest(name: &str) -> Result<PathBuf> {
    let path = root().join("guests").join(name);
    let package = name.split('/').next().unwrap_or(name);
    there(path, || format!("guests/{name} (./x guests {package})"))
}

/// A file of `../shared/`, beside the project's folder.
pub(crate) fn shared(name: &str) -> Result<PathBuf> {
    there(root().join("../shared").join(name), || format!("../shared/{name}"))
}

fn there(path: PathBuf, what: impl Fn() -> String) -> Result<PathBuf> {
    if path.exists() { Ok(path) } else { Err(Missing(what()).into()) }
}

/// A program of the host that some tests compare with.
pub(crate) fn tool(name: &str) -> Result<PathBuf> {
    let found = std::env::split_paths(&search_path()).map(|d| d.join(name)).find(|p| p.is_file());
    found.ok_or_else(|| Missing(format!("the program {name}")).into())
}

/// Where programs are looked for: those of the superuser are not in everybody's path.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// A folder of a test's own, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("orrery-test-{}-{n}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file in it, written.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<String> {
        fs::write(self.file(name), bytes)?;
        Ok(name.into())
    }

    /// Starts the emulator here.
    pub(crate) fn start(&self, args: &[String]) -> Result<Running> {
        let orrery = ORRERY.get().context("prepared")?;
        let mut command = Command::new(orrery);
        command.args(args);
        self.spawn(command)
    }

    /// Starts any program here, its output going to files.
    pub(crate) fn spawn(&self, mut command: Command) -> Result<Running> {
        let child = command
            .current_dir(&self.0)
            // Nothing of the person who runs the tests is read or written.
            .env("XDG_DATA_HOME", self.0.join("data"))
            .stdin(Stdio::null())
            .stdout(File::create(self.file("stdout"))?)
            .stderr(File::create(self.file("stderr"))?)
            .spawn()?;
        Ok(Running { child, folder: self.0.clone() })
    }

    /// Runs the emulator to its end.
    pub(crate) fn orrery(&self, args: &[&str], limit: u64) -> Result<Output> {
        let firmware = root().join("guests/firmware").to_string_lossy().into_owned();
        let common = ["-display", "none", "-L", firmware.as_str()];
        let args: Vec<String> = common.iter().chain(args).map(|s| s.to_string()).collect();
        self.start(&args)?.wait(limit)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind costs space and nothing else.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// It ended well, else an error with everything it said.
    pub(crate) fn success(self) -> Result<Self> {
        if !self.status.success() {
            bail!("{}\nstderr: {}\nstdout: {}", self.status, self.stderr, tail(&self.stdout));
        }
        Ok(self)
    }
}

/// The end of a long text.
pub(crate) fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(2000);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// A program at work; killed when dropped.
pub(crate) struct Running {
    child: Child,
    folder: PathBuf,
}

impl Running {
    /// Waits for its end.
    pub(crate) fn wait(mut self, limit: u64) -> Result<Output> {
        let end = Instant::now() + Duration::from_secs(limit);
        loop {
            if let Some(status) = self.child.try_wait()? {
                let text = |name| -> Result<String> {
                    Ok(String::from_utf8_lossy(&fs::read(self.folder.join(name))?).into_owned())
                };
                return Ok(Output { status, stdout: text("stdout")?, stderr: text("stderr")? });
            }
            if Instant::now() > end {
                let said = fs::read(self.folder.join("stdout")).unwrap_or_default();
                let said = String::from_utf8_lossy(&said).into_owned();
                bail!("not done after {limit} seconds; it had said:\n{}", tail(&said));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its number among the host's processes.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until its output holds `text`; false if it ended before.
    pub(crate) fn wait_for(&mut self, text: &str, limit: u64) -> Result<bool> {
        self.wait_in("stdout", text, limit)
    }

    /// The same of what it complains about.
    pub(crate) fn wait_for_error(&mut self, text: &str, limit: u64) -> Result<bool> {
        self.wait_in("stderr", text, limit)
    }

    fn wait_in(&mut self, stream: &str, text: &str, limit: u64) -> Result<bool> {
        let end = Instant::now() + Duration::from_secs(limit);
        loop {
            let ended = self.child.try_wait()?.is_some();
            let said = fs::read(self.folder.join(stream))?;
            if String::from_utf8_lossy(&said).contains(text) {
                return Ok(true);
            }
            if ended {
                return Ok(false);
            }
            if Instant::now() > end {
                bail!("'{text}' not seen within {limit} seconds");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a power failure would.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program under test.
pub(crate) fn orrery() -> Result<&'static Path> {
    Ok(ORRERY.get().context("prepared")?)
}
