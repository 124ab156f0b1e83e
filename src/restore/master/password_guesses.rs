//! Limits how often a wrong password can be tried. A connection has one try (`wire::psync::master` sees to that). An
//! address whose try was wrong has one try each second. A Redis with a wrong `masterauth` does not connect more often.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Between two tries of one address.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an address is remembered after its last wrong one.
const REMEMBERED: Duration = Duration::from_secs(60);
/// A connection that would have to wait longer is closed.
const WAIT: Duration = Duration::from_secs(10);
/// Addresses that are remembered. When there are more, the one with the oldest try is forgotten.
const ADDRESSES: usize = 256;
/// Who has one IPv6 address has all addresses of its network.
const NETWORK: u128 = u128::MAX << 64;

/// Addresses that gave a wrong password.
#[derive(Debug, Clone, Default)]
pub(crate) struct PasswordGuesses(Arc<Mutex<BTreeMap<IpAddr, Turn>>>);

#[derive(Debug, Clone, Copy)]
struct Turn {
    wrong: Instant,
    next: Instant,
}

impl PasswordGuesses {
    /// Waits for the turn of this address. False: too many of its connections wait already.
    pub(crate) async fn turn(&self, peer: IpAddr) -> bool {
        let now = Instant::now();
        let at = {
            let mut turns = self.turns();
            let Some(turn) = turns.get_mut(&network(peer)) else {
                return true;
            };
            if now.duration_since(turn.wrong) > REMEMBERED {
                turns.remove(&network(peer));
                return true;
            }
            let at = turn.next.max(now);
            if at.duration_since(now) > WAIT {
                return false;
            }
            turn.next = at.checked_add(PAUSE).unwrap_or(at);
            at
        };
        sleep_until(at).await;
        true
    }

    /// A connection begins, which may try.
    pub(crate) fn begin(&self, peer: IpAddr) -> Try {
        Try {
            guesses: self.clone(),
            peer,
            is_wrong: true,
        }
    }

    /// It gave a wrong password.
    fn wrong(&self, peer: IpAddr) {
        let now = Instant::now();
        let mut turns = self.turns();
        let next = now.checked_add(PAUSE).unwrap_or(now);
        let turn = turns
            .entry(network(peer))
            .or_insert(Turn { wrong: now, next });
        turn.wrong = now;
        if turns.len() > ADDRESSES {
            let oldest = turns.iter().min_by_key(|(_, turn)| turn.wrong);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                turns.remove(&oldest);
            }
        }
    }

    /// It gave the right one.
    fn right(&self, peer: IpAddr) {
        self.turns().remove(&network(peer));
    }

    fn turns(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Turn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection tries. One that is closed early to make room for others counts as wrong. Otherwise that would be a
/// way to try without being counted.
pub(crate) struct Try {
    guesses: PasswordGuesses,
    peer: IpAddr,
    is_wrong: bool,
}

impl Try {
    /// It came to its end, and gave no wrong password.
    pub(crate) fn harmless(mut self) {
        self.is_wrong = false;
    }

    /// It gave the right one.
    pub(crate) fn right(self) {
        self.guesses.right(self.peer);
        self.harmless();
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        if self.is_wrong {
            self.guesses.wrong(self.peer);
        }
    }
}

fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(peer) => Ipv6Addr::from_bits(peer.to_bits() & NETWORK).into(),
        peer @ IpAddr::V4(_) => peer,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_was_wrong_has_one_try_a_second_and_the_others_wait_for_nothing() {
        let guesses = PasswordGuesses::default();
        let begun = Instant::now();
        let (bad, good) = (peer("10.0.0.1"), peer("10.0.0.2"));
        for _ in 0..100 {
            assert!(guesses.turn(bad).await);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for second in 1..=50 {
            guesses.wrong(bad);
            assert!(guesses.turn(bad).await);
            assert_eq!(begun.elapsed(), second * PAUSE);
            assert!(guesses.turn(good).await);
            assert_eq!(begun.elapsed(), second * PAUSE);
        }
        guesses.right(bad);
        assert!(guesses.turn(bad).await);
        assert_eq!(begun.elapsed(), 50 * PAUSE);
        guesses.wrong(bad);
        tokio::time::sleep(2 * REMEMBERED).await;
        let later = Instant::now();
        assert!(guesses.turn(bad).await && guesses.turn(bad).await);
        assert_eq!(later.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_connections_at_once_few_wait_and_the_rest_are_closed() {
        let guesses = PasswordGuesses::default();
        guesses.wrong(peer("2001:db8::1"));
        let turns = (0..1000_u32).map(|host| {
            let (guesses, peer) = (guesses.clone(), format!("2001:db8::{host:x}"));
            async move { guesses.turn(peer.parse().unwrap()).await }
        });
        let taken = futures::future::join_all(turns).await;
        let let_in = taken.iter().filter(|taken| **taken).count();
        assert_eq!(let_in as u64, WAIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_had_to_go_counts_as_wrong() {
        let (guesses, peer) = (PasswordGuesses::default(), peer("::1"));
        guesses.begin(peer).harmless();
        assert!(guesses.turns().is_empty());
        drop(guesses.begin(peer));
        assert_eq!(guesses.turns().len(), 1);
        guesses.begin(peer).harmless();
        assert_eq!(guesses.turns().len(), 1);
        guesses.begin(peer).right();
        assert!(guesses.turns().is_empty());
    }

    #[tokio::test]
    async fn no_more_addresses_are_remembered_than_so_many() {
        let guesses = PasswordGuesses::default();
        for number in 0..10 * ADDRESSES as u32 {
            guesses.wrong(std::net::Ipv4Addr::from_bits(number).into());
        }
        assert_eq!(guesses.turns().len(), ADDRESSES);
    }
}
