//! Certificates made for a test: an authority, and what it signs.

#![allow(dead_code, unreachable_pub, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// An authority; its files lie in the test's directory.
pub struct Authority {
    home: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of a certificate and its key.
pub struct Signed {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(home: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(home.join(format!("{name}.crt")), certificate.pem()).expect("a file");
        Self {
            home: home.to_owned(),
            name: name.to_owned(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The file of its own certificate.
    pub fn file(&self) -> String {
        self.path("")
    }

    /// For these names and addresses, valid for long.
    pub fn sign(&self, names: &[&str]) -> Signed {
        self.sign_until(names, 2099)
    }

    /// Valid until the first day of that year.
    pub fn sign_until(&self, names: &[&str], year: i32) -> Signed {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let stem = format!("-{}-{year}", names.join("-"));
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let signed = Signed {
            cert: self.path(&stem),
            key: self.path(&format!("{stem}-key")),
        };
        fs::write(&signed.cert, certificate.pem()).expect("a file");
        fs::write(&signed.key, key.serialize_pem()).expect("a file");
        signed
    }

    fn path(&self, stem: &str) -> String {
        let file = self.home.join(format!("{}{stem}.crt", self.name));
        file.to_str().expect("UTF-8").to_owned()
    }
}
