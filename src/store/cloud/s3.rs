//! Amazon S3 and services like it: `s3://BUCKET/PREFIX`, with the environment variables that AWS' own tools use.

use object_store::ClientConfigKey;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};

use super::settings::{clear_text, client_options, is_on, retries};
use super::wire::Connector;
use super::{CloudStore, Credentials, Side};
use crate::store::names::Place;

/// The smallest part, except for the last, is 5 MiB. After this many parts come larger ones, so that 10,000 hold 195
/// GiB. Before that all have one size, because some services need this.
const PARTS_SMALL: usize = 5000;
const PART_SMALL: usize = 8 << 20;
const PART_LARGE: usize = 32 << 20;

static SIDE: Side = Side {
    part: |number| match number < PARTS_SMALL {
        true => PART_SMALL,
        false => PART_LARGE,
    },
    parts: 10_000,
    metadata_first: true,
    skips_prefix: false,
    refuses: |_| None,
    advice,
    credentials: "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or let the pod or machine have a role (IAM roles for service \
                  accounts, EKS Pod Identity, an instance profile); profiles in ~/.aws are not read",
};

fn advice(verb: &str, status: u16, _said: &str) -> String {
    if status == 401 {
        return "The credentials are not accepted. Check which ones are set".to_owned();
    }
    let permission = match verb {
        "list" => "s3:ListBucket on the bucket",
        "read" => "s3:GetObject on its objects",
        "delete" => "s3:DeleteObject and s3:AbortMultipartUpload on its objects",
        _ => "s3:PutObject on its objects",
    };
    format!(
        "The account needs the permission {permission}, and, where a key of yours encrypts the bucket, kms:GenerateDataKey and \
         kms:Decrypt on that"
    )
}

/// Opens `url` with what the environment says. Nothing is asked of the network yet.
pub(super) fn open(
    url: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<CloudStore, String> {
    let place = Place::parse("s3", "bucket", url)?;
    let bucket = place.bucket.clone();
    if bucket.ends_with("--x-s3") {
        return Err("a directory bucket (S3 Express) does not list objects in order: use an ordinary bucket".to_owned());
    }
    let mut builder = AmazonS3Builder::new();
    for (name, value) in environment {
        if !name.starts_with("AWS_") || value.is_empty() {
            continue;
        }
        match name.to_ascii_lowercase().parse() {
            // Certificates are always verified, and timeouts are ours.
            Ok(AmazonS3ConfigKey::Client(key)) if key != ClientConfigKey::AllowHttp => {}
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => {}
        }
    }
    let config = |key| builder.get_config_value(&key);
    let is = |key| config(key).is_some_and(|value| is_on(&value));
    let region = config(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint =
        config(AmazonS3ConfigKey::S3Endpoint).or_else(|| config(AmazonS3ConfigKey::Endpoint));
    let clear = match &endpoint {
        Some(endpoint) => clear_text(
            endpoint,
            is(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)),
            "AWS_ALLOW_HTTP",
        )?,
        None => false,
    };
    let anonymous = is(AmazonS3ConfigKey::SkipSignature);
    let address =
        endpoint.unwrap_or_else(|| match is(AmazonS3ConfigKey::VirtualHostedStyleRequest) {
            true => format!("https://{bucket}.s3.{region}.amazonaws.com"),
            false => format!("https://s3.{region}.amazonaws.com"),
        });
    let cloud = builder
        .with_bucket_name(&bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_disable_bulk_delete(true)
        .with_client_options(client_options().with_allow_http(clear))
        .with_retry(retries())
        .with_http_connector(Connector::new(&address))
        .build()
        .map_err(|error| error.to_string())?;
    let credentials = match anonymous {
        true => Credentials::None,
        false => Credentials::Aws(cloud.credentials().clone()),
    };
    Ok(CloudStore::new(&SIDE, cloud, credentials, place))
}
