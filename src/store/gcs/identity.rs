//! Who we are to Google Cloud Storage: Application Default Credentials, or the reason why there are none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use google_cloud_auth::credentials::{self, Credentials};
use reqwest::Client;
use tokio::time::{Instant, sleep};

use crate::store::StoreError;
use crate::store::retry::chain;

/// What the credentials are asked for.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// A file of credentials, as all of Google's libraries take it.
const FILE_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// The same of the metadata server's address.
const METADATA_VARIABLE: &str = "GCE_METADATA_HOST";
const METADATA_HOST: &str = "metadata.google.internal";
const METADATA_HEADER: &str = "Metadata-Flavor";
/// It is on this machine, or next to it: whoever does not answer within this time is not there.
const METADATA_LIMIT: Duration = Duration::from_secs(3);
/// That of GKE comes up some seconds after a new pod.
const POD_LIMIT: Duration = Duration::from_secs(12);
const PAUSE: Duration = Duration::from_millis(500);

const REMEDY: &str = "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the path of a credentials \
                      file; on Google Cloud, give the machine or the pod a service account (on GKE: Workload Identity)";

/// A service account's file, a federation, an impersonation, `gcloud`'s login, or what the metadata server gives. `what` is being
/// done.
#[expect(clippy::disallowed_methods)] // the variables of Google's own libraries
pub(super) async fn credentials(what: &str) -> Result<Credentials, StoreError> {
    let file = Files {
        named: std::env::var_os(FILE_VARIABLE).is_some(),
        login: std::env::var_os("HOME").map(|home| {
            Path::new(&home).join(".config/gcloud/application_default_credentials.json")
        }),
    };
    if !file.any() {
        let host = std::env::var(METADATA_VARIABLE).ok();
        let host = host.as_deref().unwrap_or(METADATA_HOST);
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let limit = if in_pod { POD_LIMIT } else { Duration::ZERO };
        metadata_server(host, limit)
            .await
            // It may come up yet: a service tries again.
            .map_err(|cause| StoreError::Transient {
                what: what.to_owned(),
                cause: file.missing(host, &cause),
            })?;
    }
    credentials::Builder::default()
        .with_scopes([SCOPE])
        .build()
        .map_err(|error| StoreError::Permanent {
            what: what.to_owned(),
            cause: format!("the Google credentials cannot be used: {error}. {REMEDY}"),
        })
}

/// Where Google's library looks before it asks the metadata server.
struct Files {
    /// Is one named, there or not?
    named: bool,
    login: Option<PathBuf>,
}

impl Files {
    fn any(&self) -> bool {
        self.named || self.login.as_ref().is_some_and(|path| path.exists())
    }

    fn missing(&self, host: &str, cause: &str) -> String {
        let login = match &self.login {
            Some(path) => format!("there is no {}", path.display()),
            None => "HOME is not set".to_owned(),
        };
        format!(
            "no Google credentials are found: {FILE_VARIABLE} is not set, {login}, and no metadata server of Google Cloud answers at \
             {host} ({cause}). {REMEDY}"
        )
    }
}

/// Is it there? The request is retried until the limit is over.
async fn metadata_server(host: &str, limit: Duration) -> Result<(), String> {
    let client = Client::builder()
        .no_proxy()
        .connect_timeout(METADATA_LIMIT)
        .timeout(METADATA_LIMIT)
        .build()
        .map_err(|error| chain(&error))?;
    let begun = Instant::now();
    loop {
        let asked = client.get(format!("http://{host}/"));
        let asked = asked.header(METADATA_HEADER, "Google").send().await;
        let cause = match asked {
            Ok(answer) if answer.headers().contains_key(METADATA_HEADER) => return Ok(()),
            Ok(_) => "what answers there is another server".to_owned(),
            Err(error) if error.is_timeout() => {
                format!("no answer within {} s", METADATA_LIMIT.as_secs())
            }
            Err(error) => chain(&error),
        };
        if begun.elapsed() >= limit {
            return Err(cause);
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request after the other with this head.
    async fn server(head: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 200 OK\r\n{head}content-length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        host
    }

    #[tokio::test]
    async fn a_metadata_server_is_known_by_its_answer() {
        let google = server("Metadata-Flavor: Google\r\n").await;
        metadata_server(&google, Duration::ZERO).await.unwrap();
        let other = server("").await;
        let cause = metadata_server(&other, Duration::ZERO).await.unwrap_err();
        assert!(cause.contains("another server"), "{cause}");
    }

    #[tokio::test]
    async fn one_that_comes_up_late_is_waited_for() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let waiting = tokio::spawn(async move {
            metadata_server(&addr.to_string(), Duration::from_secs(60)).await
        });
        sleep(PAUSE).await;
        let late = TcpListener::bind(addr).await.unwrap();
        let (mut stream, _) = late.accept().await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nmetadata-flavor: Google\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        waiting.await.unwrap().unwrap();
    }
}
