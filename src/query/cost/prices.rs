//! List prices: the only place that has them.

use serde::{Serialize, Serializer};

use super::Rate;
use crate::archive::Amount;

const GIB: u128 = 1 << 30;

/// What a provider bills, in US dollars, without tax, free amounts and traffic.
#[derive(Debug)]
pub struct Price {
    /// Provider, class and region.
    pub name: &'static str,
    /// A GiB for a month, in millionths of a dollar.
    pub storage: u64,
    /// 1,000 requests that create or list, in millionths of a dollar.
    pub creates: u64,
    /// Bytes of a part of an upload, which is a request.
    pub part: u64,
}

/// As of January 2025.
pub const PRICES: [Price; 3] = [
    Price {
        name: "Google Cloud Storage (Standard, us-central1)",
        storage: 20_000,
        creates: 5_000,
        part: 4 << 20,
    },
    Price {
        name: "Amazon S3 (Standard, us-east-1)",
        storage: 23_000,
        creates: 5_000,
        part: 8 << 20,
    },
    Price {
        name: "Azure Blob Storage (Hot LRS, East US)",
        storage: 20_800,
        creates: 5_500,
        part: 8 << 20,
    },
];

/// What one provider bills.
#[derive(Debug, Serialize)]
pub struct Bill {
    /// Provider, class and region.
    pub name: &'static str,
    /// A month of what lies in the store now.
    pub storage_usd: Usd,
    /// What is written in a month adds this to the storage of each later month. None: the rate is not known.
    pub growth_usd: Option<Usd>,
    /// Creating the objects of a month. None: the rate is not known.
    pub creates_usd: Option<Usd>,
}

impl Price {
    /// `stored`: bytes.
    #[must_use]
    pub fn bill(&self, stored: u64, rate: Option<&Rate>) -> Bill {
        Bill {
            name: self.name,
            storage_usd: self.storage(stored),
            growth_usd: rate.map(|rate| {
                let month = rate.log_a_month.and(rate.bases_a_month);
                self.storage(month.bytes)
            }),
            creates_usd: rate.map(|rate| {
                let bases = self.base_requests(rate.bases_a_month);
                let requests = u128::from(rate.log_a_month.objects).saturating_add(bases);
                Usd(requests.saturating_mul(self.creates.into()) / 1000)
            }),
        }
    }

    fn storage(&self, bytes: u64) -> Usd {
        Usd(u128::from(bytes).saturating_mul(self.storage.into()) / GIB)
    }

    /// A base is one request for each part, one to join them if there are several, and one for its manifest.
    fn base_requests(&self, bases: Amount) -> u128 {
        let Some(mean) = bases.bytes.checked_div(bases.objects) else {
            return 0;
        };
        let parts = mean.div_ceil(self.part).max(1);
        let joined = u64::from(parts > 1);
        let each = parts.saturating_add(joined).saturating_add(1);
        u128::from(bases.objects).saturating_mul(each.into())
    }
}

/// Millionths of a dollar. As JSON: dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usd(pub u128);

impl std::fmt::Display for Usd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cents = self.0.saturating_add(5_000) / 10_000;
        match (self.0, cents) {
            (1.., 0) => f.write_str("< $0.01"),
            _ => write!(f, "${}.{:02}", cents / 100, cents % 100),
        }
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[allow(clippy::cast_precision_loss)] // dollars
        serializer.serialize_f64(self.0 as f64 / 1e6)
    }
}
