//! The guestbook of the demo shows "stored" when an entry is stored, and not before.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::{Backfeed, Server, Version, free_port, wait_until};

const STORED: &str = "Your entry is safely stored.";

struct Guestbook {
    port: u16,
    program: Child,
}

impl Guestbook {
    fn of(server: &Server) -> Self {
        let port = free_port();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/guestbook/guestbook.py");
        let program = Command::new("python3")
            .arg(script)
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--redis", &server.addr()])
            .stdin(Stdio::null())
            .spawn()
            .expect("python3 runs the guestbook");
        let guestbook = Self { port, program };
        wait_until("the guestbook listens", PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        guestbook
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn page(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.0\r\n\r\n"))
    }

    /// Signs, and gives the page that a browser is led to.
    fn sign(&self, message: &str) -> String {
        let form = format!("name=Ada&message={message}");
        let length = form.len();
        let answer = self.ask(&format!(
            "POST / HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{form}"
        ));
        let mut headers = answer.lines().filter_map(|line| line.split_once(": "));
        let to = headers.find(|(name, _)| *name == "Location");
        let (_, to) = to.unwrap_or_else(|| panic!("no redirect: {answer}"));
        self.page(to)
    }
}

impl Drop for Guestbook {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn the_page_says_stored_when_the_entry_is_and_only_then() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let server = Server::start(Version::Redis80, &[]);
    let mut backfeed = Backfeed::backup(&server.url(), &store, &[]);
    backfeed.wait_captured(&server);
    let guestbook = Guestbook::of(&server);
    let page = guestbook.sign("first");
    assert!(page.contains(STORED) && page.contains("first"), "{page}");
    let page = guestbook.page("/");
    assert!(
        !page.contains(STORED) && page.contains("1 entries"),
        "{page}"
    );
    // Nobody stores it, and the guest is not told so.
    backfeed.kill9();
    let page = guestbook.sign("second");
    assert!(!page.contains(STORED) && page.contains("second"), "{page}");
}
