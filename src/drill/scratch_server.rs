//! A server that is started for a drill, and ends with it.

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::config::{Secret, Source};
use crate::link::control::Control;
use crate::link::replication_info::Facts;
use crate::runtime;

/// Programs that are looked for, if none is named.
const NAMES: [&str; 2] = ["redis-server", "valkey-server"];
/// A server that has nothing to load answers within milliseconds. One that loads an RDB says that it does.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// Another process may have taken the port in between.
const TRIES: u32 = 5;
/// Databases that it has. (Each takes some hundred bytes.)
const DATABASES: u32 = 1024;
/// Of its log, the end is shown when it does not start.
const TOLD: usize = 600;

/// The program of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerProgram {
    path: PathBuf,
    major: u32,
}

/// The server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot be run.
    #[error("{path} cannot be run: {cause}. Name another server")]
    Program {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// It ended, or does not answer.
    #[error("the server for the drill, {path}, {how}. Its log ends with: {log}")]
    Server {
        /// Its program.
        path: PathBuf,
        /// What happened.
        how: String,
        /// The end of its log.
        log: String,
    },
    /// A directory or file.
    #[error("cannot use {path} for the drill: {cause}. Choose another directory")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

impl ServerProgram {
    /// The program at `path`.
    ///
    /// # Errors
    /// [`StartError::Program`]: it is no server.
    pub async fn at(path: &Path) -> Result<Self, StartError> {
        let failed = |cause: String| StartError::Program {
            path: path.to_owned(),
            cause,
        };
        // It is started in another directory.
        let path = &std::path::absolute(path).map_err(|error| failed(error.to_string()))?;
        let output = Command::new(path).arg("-v").stdin(Stdio::null()).output();
        let output = output.await.map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        // `Redis server v=7.0.15 sha=…`, `Valkey server v=8.1.1 …`
        let version = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix("v="));
        let major = version.and_then(|version| version.split('.').next()?.parse().ok());
        let major = major
            .ok_or_else(|| failed("it does not say its version as a Redis does".to_owned()))?;
        Ok(Self {
            path: path.to_owned(),
            major,
        })
    }

    /// `redis-server` or `valkey-server` in one of these directories. None: there is neither.
    ///
    /// # Errors
    /// As [`Self::at`].
    pub async fn find(
        directories: impl Iterator<Item = PathBuf>,
    ) -> Result<Option<Self>, StartError> {
        for directory in directories {
            for name in NAMES {
                let path = directory.join(name);
                if tokio::fs::metadata(&path)
                    .await
                    .is_ok_and(|it| it.is_file())
                {
                    return Self::at(&path).await.map(Some);
                }
            }
        }
        Ok(None)
    }
}

/// A running server: on loopback, with a password that nobody knows, without files of its own but its log. It is killed
/// when this is dropped.
#[derive(Debug)]
pub(super) struct ScratchServer {
    process: Child,
    source: Source,
    version: String,
}

impl ScratchServer {
    /// Where a server that is started in `dir` looks for its RDB. The directory is made.
    ///
    /// # Errors
    /// [`StartError::Directory`].
    pub(super) fn data_file(dir: &Path) -> Result<PathBuf, StartError> {
        let failed = |cause| StartError::Directory {
            path: dir.to_owned(),
            cause,
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        Ok(dir.join("dump.rdb"))
    }

    /// Starts one in `dir`, and waits until it has loaded the RDB that lies there, if one does.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) async fn start(program: &ServerProgram, dir: &Path) -> Result<Self, StartError> {
        Self::data_file(dir)?;
        let mut tries = 1;
        loop {
            match Self::try_start(program, dir).await {
                Err(StartError::Server { log, .. })
                    if tries < TRIES && log.contains("Address already in use") =>
                {
                    tries = tries.saturating_add(1);
                }
                other => return other,
            }
        }
    }

    async fn try_start(program: &ServerProgram, dir: &Path) -> Result<Self, StartError> {
        let failed = |cause| StartError::Directory {
            path: dir.to_owned(),
            cause,
        };
        let port = free_port().map_err(failed)?;
        let password: String = runtime::random_bytes::<20>()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let source = Source {
            host: "127.0.0.1".to_owned(),
            port,
            username: None,
            password: Some(Secret::new(password.clone())),
            password_file: None,
            tls: None,
        };
        let log = dir.join("log");
        let out = std::fs::File::create(&log).map_err(failed)?;
        let both = out.try_clone().map_err(failed)?;
        let mut process = Command::new(&program.path)
            .arg("-")
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(both)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| StartError::Program {
                path: program.path.clone(),
                cause: error.to_string(),
            })?;
        // By its standard input: other users of the machine see the command line.
        if let Some(mut stdin) = process.stdin.take() {
            let written = stdin
                .write_all(settings(program, port, &password).as_bytes())
                .await;
            // If it has ended, its log says why.
            drop(written.and(stdin.shutdown().await));
        }
        let server = |how: String| StartError::Server {
            path: program.path.clone(),
            how,
            log: end_of(&log),
        };
        let mut silent_since = Instant::now();
        loop {
            if let Some(status) = process.try_wait().map_err(failed)? {
                return Err(server(format!("ended at once ({status})")));
            }
            match facts(&source).await {
                Some(facts) if !facts.loading => {
                    return Ok(Self {
                        process,
                        source,
                        version: format!("{} {}", facts.flavour, facts.version),
                    });
                }
                // However long it takes.
                Some(_) => silent_since = Instant::now(),
                None if silent_since.elapsed() > PATIENCE => {
                    return Err(server(format!(
                        "has not answered for {} s",
                        PATIENCE.as_secs()
                    )));
                }
                None => {}
            }
            sleep(LOOK).await;
        }
    }

    /// Ends it, and waits until it is gone.
    pub(super) async fn stop(mut self) {
        if let Err(error) = self.process.kill().await {
            tracing::warn!("the server of the drill cannot be ended: {error}");
        }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }
}

async fn facts(source: &Source) -> Option<Facts> {
    let mut control = Control::connect(source).await.ok()?;
    control.facts().await.ok()
}

fn settings(program: &ServerProgram, port: u16, password: &str) -> String {
    let mut text = format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {password}\ndaemonize no\nsave \"\"\nappendonly no\n\
         dbfilename dump.rdb\ndatabases {DATABASES}\nrepl-diskless-load on-empty-db\nlatency-monitor-threshold 0\n"
    );
    if program.major >= 7 {
        // Values are compared with its `DEBUG DIGEST`. Older servers have it always.
        text.push_str("enable-debug-command local\n");
    }
    text
}

fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}

fn end_of(log: &Path) -> String {
    let text = match std::fs::read(log) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => error.to_string(),
    };
    let skipped = text.chars().count().saturating_sub(TOLD);
    let end: String = text.chars().skip(skipped).collect();
    end.split_whitespace().collect::<Vec<_>>().join(" ")
}
