//! Azure Blob Storage: `az://CONTAINER/PREFIX`, with the environment that names account and identity.

use object_store::ClientConfigKey;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::settings::{clear_text, client_options, is_on, retries};
use super::wire::Connector;
use super::{CloudStore, Credentials, Side};
use crate::store::names::Place;

/// 50,000 blocks of them are 390 GiB.
const PART: usize = 8 << 20;
const EMULATOR: &str = "http://127.0.0.1:10000";
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";

static SIDE: Side = Side {
    part: |_| PART,
    parts: 50_000,
    metadata_first: false,
    skips_prefix: true,
    refuses,
    advice,
    credentials: "Use workload identity or a managed identity, or set AZURE_STORAGE_ACCOUNT_KEY, or AZURE_CLIENT_ID, AZURE_TENANT_ID and \
                  AZURE_CLIENT_SECRET",
};

fn refuses(name: &str) -> Option<&'static str> {
    if name.contains('\\') {
        return Some("Azure makes / of \\");
    }
    if name.split('/').any(|part| part.ends_with('.')) {
        return Some("Azure may drop a dot at the end of a part");
    }
    None
}

fn advice(_verb: &str, status: u16, _said: &str) -> String {
    if status == 401 {
        return "The credentials are not accepted. Check which ones are set".to_owned();
    }
    "The identity needs the role Storage Blob Data Contributor on the container, and the firewall of the storage account must let it in"
        .to_owned()
}

/// Opens `url` with what the environment says. Nothing is asked of the network yet.
pub(super) fn open(
    url: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<CloudStore, String> {
    let place = Place::parse("az", "container", url)?;
    let container = place.bucket.clone();
    let mut builder = MicrosoftAzureBuilder::new();
    let mut emulator = EMULATOR.to_owned();
    for (name, value) in environment {
        if value.is_empty() {
            continue;
        }
        match name.as_str() {
            "IDENTITY_ENDPOINT" => builder = builder.with_msi_endpoint(&value),
            "AZURITE_BLOB_STORAGE_URL" => emulator.clone_from(&value),
            _ => {}
        }
        if !name.starts_with("AZURE_") {
            continue;
        }
        match name.to_ascii_lowercase().parse() {
            // Certificates are always verified, and timeouts are ours.
            Ok(AzureConfigKey::Client(key)) if key != ClientConfigKey::AllowHttp => {}
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => {}
        }
    }
    let config = |key| builder.get_config_value(&key);
    let is = |key| config(key).is_some_and(|value| is_on(&value));
    let emulated = is(AzureConfigKey::UseEmulator);
    let account = match config(AzureConfigKey::AccountName) {
        Some(account) => account,
        None if emulated => EMULATOR_ACCOUNT.to_owned(),
        None => {
            return Err(
                "set AZURE_STORAGE_ACCOUNT_NAME to the name of the storage account".to_owned(),
            );
        }
    };
    let endpoint = match emulated {
        true => emulator,
        false => config(AzureConfigKey::Endpoint)
            .unwrap_or_else(|| format!("https://{account}.blob.core.windows.net")),
    };
    let clear = clear_text(
        &endpoint,
        is(AzureConfigKey::Client(ClientConfigKey::AllowHttp)),
        "AZURE_ALLOW_HTTP",
    )?;
    let anonymous = is(AzureConfigKey::SkipSignature);
    let connector = Connector::new(&endpoint);
    let cloud = builder
        .with_container_name(&container)
        .with_client_options(client_options().with_allow_http(clear))
        .with_retry(retries())
        .with_http_connector(connector.clone())
        .build()
        .map_err(|error| error.to_string())?;
    connector.sign_with(account, cloud.credentials().clone());
    let credentials = match anonymous {
        true => Credentials::None,
        false => Credentials::Azure(cloud.credentials().clone()),
    };
    Ok(CloudStore::new(&SIDE, cloud, credentials, place))
}
