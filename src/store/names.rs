//! Where a store on a network is, and how the names of its objects there map to ours.

use super::{StoreError, check_name};

/// A prefix in a bucket.
#[derive(Debug, Clone)]
pub(super) struct Place {
    scheme: &'static str,
    pub(super) bucket: String,
    /// Empty, or with a `/` at its end.
    prefix: String,
}

impl Place {
    /// Parses `SCHEME://BUCKET[/PREFIX]`. `noun`: the service's own word for a bucket. The error says what is wrong.
    pub(super) fn parse(scheme: &'static str, noun: &str, url: &str) -> Result<Self, String> {
        let name = noun.to_uppercase();
        let form = format!("write {scheme}://{name} or {scheme}://{name}/PREFIX");
        let rest = url
            .strip_prefix(scheme)
            .and_then(|rest| rest.strip_prefix("://"))
            .ok_or_else(|| format!("it does not begin with {scheme}://; {form}"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if bucket.len() < 3 || !bucket.chars().all(allowed) {
            return Err(format!("`{bucket}` cannot be the name of a {noun}; {form}"));
        }
        let mut prefix = prefix.trim_end_matches('/').to_owned();
        if prefix.contains(['?', '#']) {
            return Err(format!("? and # are not allowed in a prefix; {form}"));
        }
        if !prefix.is_empty() {
            check_name(&prefix).map_err(|error| format!("{error}; {form}"))?;
            prefix.push('/');
        }
        Ok(Self {
            scheme,
            bucket: bucket.to_owned(),
            prefix,
        })
    }

    /// What an operator calls the store.
    pub(super) fn url(&self) -> String {
        self.shown(&self.prefix).trim_end_matches('/').to_owned()
    }

    /// How an object, or a beginning of names, is shown to an operator.
    pub(super) fn shown(&self, object: &str) -> String {
        format!("{}://{}/{object}", self.scheme, self.bucket)
    }

    /// The name in the bucket of the object `name` of the store. Also for the beginning of names.
    pub(super) fn object(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name in the store. None for an object elsewhere in the bucket.
    pub(super) fn name<'a>(&self, object: &'a str) -> Option<&'a str> {
        object.strip_prefix(&self.prefix)
    }

    /// Names in the errors that callers match are the callers'.
    pub(super) fn own_name(&self, error: StoreError, object: &str) -> StoreError {
        let name = self.name(object).unwrap_or(object).to_owned();
        match error {
            StoreError::AlreadyExists { created, .. } => {
                StoreError::AlreadyExists { name, created }
            }
            StoreError::NotFound { .. } => StoreError::NotFound { name },
            other => other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_bucket_and_prefix() {
        for (scheme, noun) in [("gs", "bucket"), ("s3", "bucket"), ("az", "container")] {
            let parse = |rest: &str| Place::parse(scheme, noun, &format!("{scheme}:{rest}"));
            for (rest, bucket, prefix) in [
                ("//my-bucket", "my-bucket", ""),
                ("//my-bucket/", "my-bucket", ""),
                ("//b.c_d/x/y/", "b.c_d", "x/y/"),
            ] {
                let place = parse(rest).unwrap();
                assert_eq!((&*place.bucket, &*place.prefix), (bucket, prefix));
                let url = format!("{scheme}:{}", rest.trim_end_matches('/'));
                assert_eq!(place.url(), url);
                assert_eq!(place.object("n"), format!("{prefix}n"));
                assert_eq!(place.name(&place.object("n")), Some("n"));
            }
            assert_eq!(parse("//bucket/x").unwrap().name("y/n"), None);
            let name = noun.to_uppercase();
            for wrong in [
                "bucket",
                "//",
                "///x",
                "//UP/x",
                "//b/x",
                "//bucket//x",
                "//bucket/x?y",
                "//bucket/x#y",
                "//bucket/../x",
            ] {
                let told = parse(wrong).unwrap_err();
                let form = format!("write {scheme}://{name} or {scheme}://{name}/PREFIX");
                assert!(told.contains(&form), "{scheme}:{wrong}: {told}");
            }
        }
        assert!(Place::parse("s3", "bucket", "gs://bucket").is_err());
    }
}
