//! What is expected here are the bytes that Redis 6.0 and 8.6 had after the same commands.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;
use crate::model::testing::{REDIS_13, empty};

use crate::model::ApplyError;
use crate::wire::crc64::Crc64;

fn bytes(space: &mut Keyspace, key: &str) -> Vec<u8> {
    let args = Args::new(&[]);
    let text = space.value::<Text>(&args, key.as_bytes()).unwrap();
    text.unwrap().0.clone()
}

/// The registers of a sparse one, and the bytes of its count.
fn sparse(space: &mut Keyspace, key: &str) -> (Vec<u8>, Vec<u8>) {
    let bytes = bytes(space, key);
    assert_eq!(bytes[..8], *b"HYLL\x01\0\0\0");
    (bytes[16..].to_vec(), bytes[8..16].to_vec())
}

const UNCOUNTED: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 0x80];

/// An element that raises a register to a value: MurmurHash64A backwards, of 8 bytes.
fn element(register: u64, value: u32) -> [u8; 8] {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const M_INVERSE: u64 = 0x5f7a_0ea7_e59b_19bd;
    assert_eq!(M.wrapping_mul(M_INVERSE), 1);
    let mut hash = register | 1 << (13 + value);
    hash ^= hash >> 47;
    hash = hash.wrapping_mul(M_INVERSE);
    hash ^= hash >> 47;
    let mut word = hash.wrapping_mul(M_INVERSE) ^ 0xadc8_3b19 ^ 8u64.wrapping_mul(M);
    word = word.wrapping_mul(M_INVERSE);
    word ^= word >> 47;
    word.wrapping_mul(M_INVERSE).to_le_bytes()
}

fn raise(space: &mut Keyspace, key: &str, registers: &[u64], value: u32) {
    for register in registers {
        let element = element(*register, value);
        assert_eq!(place(&element), (*register as usize, value as u8));
        space.apply(&[b"PFADD", key.as_bytes(), &element]).unwrap();
    }
}

#[test]
fn elements_raise_registers_and_make_the_count_stale() {
    let mut space = empty(REDIS_13);
    space.run("PFADD e").unwrap();
    assert_eq!(
        sparse(&mut space, "e"),
        (vec![0x7F, 0xFF], UNCOUNTED.to_vec())
    );
    space.run("PFADD k a b c").unwrap();
    let registers = b"\x60\xf3\x80\x50\xb1\x84\x4b\xfb\x80\x42\x5a";
    assert_eq!(
        sparse(&mut space, "k"),
        (registers.to_vec(), UNCOUNTED.to_vec())
    );
    space.run("PFCOUNT k").unwrap();
    let counted = vec![3, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        sparse(&mut space, "k"),
        (registers.to_vec(), counted.clone())
    );
    space.run("PFADD k a").unwrap();
    space.run("PFCOUNT k e").unwrap();
    assert_eq!(sparse(&mut space, "k").1, counted, "nothing was new");
    space.rewrite("k");
    space.run("PFADD k d").unwrap();
    assert_eq!(sparse(&mut space, "k").1, [3, 0, 0, 0, 0, 0, 0, 0x80]);
    space.run("PFCOUNT nokey").unwrap();
    assert!(space.entry(b"nokey").unwrap().is_none());
}

#[test]
fn neighbouring_runs_are_joined_and_runs_are_cut() {
    let mut space = empty(REDIS_13);
    raise(&mut space, "j", &[5, 7, 6, 4, 8, 9, 10], 3);
    assert_eq!(sparse(&mut space, "j").0, b"\x03\x8b\x8a\x7f\xf4");
    raise(&mut space, "j", &[6], 7);
    assert_eq!(sparse(&mut space, "j").0, b"\x03\x89\x98\x8b\x7f\xf4");
    raise(&mut space, "j", &[6], 2);
    assert_eq!(sparse(&mut space, "j").0, b"\x03\x89\x98\x8b\x7f\xf4");
    space.run("PFADD k a b c").unwrap();
    space.run("PFMERGE m k nokey j").unwrap();
    let registers = b"\x03\x89\x98\x8b\x60\xe8\x80\x50\xb1\x84\x4b\xfb\x80\x42\x5a";
    assert_eq!(sparse(&mut space, "m").0, registers);
    raise(&mut space, "ends", &[0, 16_383, 64, 129], 32);
    assert_eq!(
        sparse(&mut space, "ends").0,
        b"\xfc\x3e\xfc\x3f\xfc\x7f\x7c\xfc"
    );
}

#[test]
fn long_ones_and_great_values_become_dense() {
    let mut space = empty(REDIS_13);
    let expected = [
        (500, 1051, 0xcacf_8ea1_8ec8_59e0, 503),
        (1000, 1899, 0xc113_63f8_422d_f895, 998),
        (1200, 2230, 0x5b4d_48ba_bb39_a280, 1198),
        (1300, 2389, 0x09b5_45e0_e2a6_1937, 1295),
        (1400, 2560, 0x7d56_54b1_b230_c8c9, 1398),
        (1600, 2888, 0x2fe7_63fd_ea23_c726, 1605),
        (1999, 12304, 0xf045_53b2_c93d_b035, 2004),
        (2999, 12304, 0xa352_c135_82fb_cbaa, 3002),
    ];
    let mut expected = expected.iter();
    let mut next = expected.next();
    for number in 0..3000 {
        space.run(&format!("PFADD d element:{number}")).unwrap();
        if let Some((at, length, crc, count)) = next
            && *at == number
        {
            let before = bytes(&mut space, "d");
            assert_eq!(
                (before.len(), Crc64::of(&before)),
                (*length, *crc),
                "{number}"
            );
            space.run("PFCOUNT d").unwrap();
            let counted = bytes(&mut space, "d");
            assert_eq!(counted[8..16], u64::to_le_bytes(*count));
            next = expected.next();
        }
    }
    assert_eq!(Crc64::of(&bytes(&mut space, "d")), 0x9609_19d3_cc14_1512);
    space.run("PFADD m a b c").unwrap();
    raise(&mut space, "j", &[5, 7, 6, 4, 8, 9, 10], 3);
    raise(&mut space, "j", &[6], 7);
    space.run("PFMERGE m j").unwrap();
    space.run("PFMERGE m d").unwrap();
    assert_eq!(Crc64::of(&bytes(&mut space, "m")), 0x0676_68d1_366e_b02b);
    raise(&mut space, "big", &[9], 33);
    assert_eq!(Crc64::of(&bytes(&mut space, "big")), 0xced5_6ca4_be35_198a);
}

#[test]
fn asking_for_registers_makes_it_dense() {
    for word in ["TODENSE", "getreg"] {
        let mut space = empty(REDIS_13);
        space.run("PFADD k a b c").unwrap();
        space.run("PFDEBUG DECODE k").unwrap();
        space.run("PFCOUNT k").unwrap();
        let sparse = bytes(&mut space, "k");
        space.run(&format!("PFDEBUG {word} k")).unwrap();
        let dense = bytes(&mut space, "k");
        assert_eq!(dense.len(), DENSE_LEN);
        assert_eq!(dense[8..16], sparse[8..16], "the count stays");
        let mut greatest = [vec![0; REGISTERS], vec![0; REGISTERS]];
        merge(&mut greatest[0], &sparse).unwrap();
        merge(&mut greatest[1], &dense).unwrap();
        assert_eq!(greatest[0], greatest[1]);
        assert_eq!(count(&dense).unwrap(), 3);
    }
}

#[test]
fn counts_at_the_ends_are_those_of_servers() {
    let mut histogram = [0; 64];
    for (value, count) in [
        (0, 0),
        (7, 1_512_775),
        (33, 101_520_638_258_700),
        (51, 1 << 63),
    ] {
        histogram[value] = REGISTERS as u32;
        assert_eq!(estimate(&histogram), count, "{value}");
        histogram[value] = 0;
    }
}

#[test]
fn what_is_no_hyperloglog_is_told() {
    let mut space = empty(REDIS_13);
    for value in [
        &b"12345678901234567890"[..],
        b"",
        b"HYLL\x02\0\0\0\0\0\0\0\0\0\0\0\x7f\xff",
    ] {
        space.apply(&[b"SET", b"k", value]).unwrap();
        let result = space.run("PFADD k a");
        assert!(matches!(result, Err(ApplyError::Diverged { .. })));
    }
    // Runs that do not cover the registers, or more than there are.
    for runs in [
        &b""[..],
        b"\x00",
        b"\x7f",
        b"\x7f\xff\x7f\xff",
        b"\x7f\xff\x80",
    ] {
        let value = [b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\x80", runs].concat();
        for command in ["PFCOUNT k", "PFMERGE l k", "PFDEBUG TODENSE k"] {
            space.apply(&[b"SET", b"k", &value]).unwrap();
            let result = space.run(command);
            assert!(
                matches!(result, Err(ApplyError::Diverged { .. })),
                "{runs:?} {command}"
            );
        }
    }
}
