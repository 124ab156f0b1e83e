//! Writes that several tests need.

use super::{Random, Server};

impl Server {
    /// Writes a key, and gives what `WAIT` says to it.
    pub fn set_and_wait(&self, db: u32, key: &str, replicas: u32, millis: u32) -> u32 {
        let mut connection = self.connect();
        let mut run = |command: &mut redis::Cmd| command.exec(&mut connection).unwrap();
        run(redis::cmd("SELECT").arg(db));
        run(redis::cmd("SET").arg(key).arg("value"));
        let wait = redis::cmd("WAIT").arg(replicas).arg(millis).to_owned();
        wait.query(&mut connection).unwrap()
    }

    /// Values of a megabyte that do not compress.
    pub fn fill_with_noise(&self, megabytes: u64) {
        let mut rng = Random::new(7);
        let mut connection = self.connect();
        for n in 0..megabytes {
            let noise: Vec<u8> = (0..125_000)
                .flat_map(|_| rng.next().to_le_bytes())
                .collect();
            let set = redis::cmd("SET").arg(n).arg(noise).to_owned();
            set.exec(&mut connection).unwrap();
        }
    }

    /// Values of more than a few TLS records, so that they are cut anywhere.
    pub fn fill_with_records(&self, prefix: &str) {
        for number in 0..40 {
            let value = format!("{number}-").repeat(7000);
            self.cmd(&["SET", &format!("{prefix}:{number}"), &value]);
        }
    }
}

/// One write.
pub fn set(connection: &mut redis::Connection, key: &str, value: &str) {
    redis::cmd("SET")
        .arg(key)
        .arg(value)
        .exec(connection)
        .unwrap();
}

/// How many replicas have acknowledged what this connection wrote, within the time.
pub fn wait(connection: &mut redis::Connection, millis: u32) -> u32 {
    let wait = redis::cmd("WAIT").arg(1).arg(millis).to_owned();
    wait.query(connection).unwrap()
}
