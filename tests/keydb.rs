//! A server that calls itself KeyDB: a sidecar could never restore it, and says so at once.

use std::fs::create_dir;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Version, free_port, run, wait_until};

/// A KeyDB is known by the name of its program.
struct KeyDb {
    home: TempDir,
    port: u16,
    child: Child,
}

impl KeyDb {
    fn start() -> Self {
        let home = TempDir::new().unwrap();
        let script = Version::Redis62.program("server");
        let program = script
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("redis-server");
        let named = home.path().join("keydb-server");
        symlink(program, &named).unwrap();
        let (port, data) = (free_port(), home.path().join("data"));
        create_dir(&data).unwrap();
        let child = Command::new(&named)
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .arg("--dir")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { home, port, child };
        wait_until("it answers", Duration::from_secs(30), || {
            let client = redis::Client::open(server.url()).unwrap();
            let connected = client.get_connection();
            connected.is_ok_and(|mut it| redis::cmd("PING").query::<String>(&mut it).is_ok())
        });
        server
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }
}

impl Drop for KeyDb {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_sidecar_refuses_it_at_once_and_a_backup_says_what_it_is_worth() {
    let keydb = KeyDb::start();
    let (redis, store) = (keydb.url(), keydb.store());
    let listen = format!("127.0.0.1:{}", free_port());
    let args = [
        "sidecar", "--redis", &redis, "--store", &store, "--listen", &listen,
    ];
    let output = run(&args);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(
        output.stderr.contains("KeyDB") && output.stderr.contains("backfeed backup"),
        "{output:?}"
    );
    let output = run(&["backup", "--once", "--redis", &redis, "--store", &store]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stderr.contains("not tried"), "{output:?}");
}
