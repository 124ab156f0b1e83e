#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use std::io::Read;

use bytes::Bytes;

use super::super::testing::*;
use super::super::{BaseKind, BaseManifest, Problem};
use super::*;
use crate::store::{MemoryStore, SharedStore};
use crate::wire::position::Offset;
use crate::wire::rdb::samples;

on_both_stores!(
    a_base_comes_back_and_counts_with_its_manifest,
    a_base_is_zstd_frames_with_a_seek_table,
    an_abandoned_base_leaves_nothing,
    base_data_without_a_manifest_can_be_adopted,
    a_damaged_base_is_a_typed_error,
    the_data_of_another_base_is_not_taken_for_that_of_this_one,
    a_seek_table_that_was_changed_is_found_and_hinders_no_restore,
);

async fn archive_in(store: SharedStore) -> Archive {
    Archive::open_or_create(store, 0).await.unwrap()
}

/// Neither all the same nor noise, and longer than two frames.
fn large_rdb() -> Bytes {
    (0..9_000_000_u32)
        .map(|n| (n / 3 % 97 + n % 5) as u8)
        .collect()
}

async fn a_base_comes_back_and_counts_with_its_manifest(store: SharedStore) {
    let archive = archive_in(store).await;
    archive.create_history(&history(1)).await.unwrap();
    for (offset, raw) in [
        (10, large_rdb()),
        (20, Bytes::new()),
        (30, feed(0, BASE_FRAME_RAW as u64)),
    ] {
        let mut writer = archive.begin_base(at(1, offset)).await.unwrap();
        for piece in raw.chunks(1_000_003) {
            writer.write(raw.slice_ref(piece)).await.unwrap();
        }
        let stored = writer.finish().await.unwrap();
        let catalog = archive.catalog().await.unwrap();
        let bases = catalog.histories[&id(1)].bases.clone();
        assert!(bases.iter().all(|base| base.offset != Offset(offset)));
        let manifest = manifest(
            1,
            offset,
            BaseKind::Consolidated { from: Offset(5) },
            &stored,
        );
        archive.commit_base(&manifest).await.unwrap();
        archive.commit_base(&manifest).await.unwrap();
        let catalog = archive.catalog().await.unwrap();
        let found = catalog.histories[&id(1)].bases.last().unwrap();
        assert_eq!(*found, manifest);
        assert!(catalog.histories[&id(1)].problems.is_empty());
        let back = bytes_of(archive.read_base(found).await.unwrap())
            .await
            .unwrap();
        assert_eq!(back.len(), raw.len());
        assert!(back == raw);
    }
}

async fn a_base_is_zstd_frames_with_a_seek_table(store: SharedStore) {
    let archive = archive_in(store).await;
    let raw = large_rdb();
    let manifest = base_of(&archive, 1, 10, &raw).await;
    let name = Name::BaseData(manifest.position()).to_string();
    let bytes = object(&archive, &name).await;
    assert_eq!(bytes.len() as u64, manifest.stored_bytes);

    // As `zstd -dc` reads it.
    let mut all = Vec::new();
    zstd::Decoder::new(&bytes[..])
        .unwrap()
        .read_to_end(&mut all)
        .unwrap();
    assert!(all == raw);

    // As a reader of the seekable format does: footer, then table, then any frame by itself.
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let end = bytes.len();
    assert_eq!(word(end - 4), 0x8F92_EAB1);
    assert_eq!(bytes[end - 5], 0);
    let frames = word(end - 9) as usize;
    assert_eq!(frames, raw.len().div_ceil(BASE_FRAME_RAW));
    let table = end - 9 - 8 * frames;
    assert_eq!(word(table - 8), 0x184D_2A5E);
    assert_eq!(word(table - 4) as usize, end - table);
    let (mut stored_at, mut raw_at) = (0, 0);
    for frame in 0..frames {
        let stored = word(table + 8 * frame) as usize;
        let length = word(table + 8 * frame + 4) as usize;
        let one = zstd::bulk::decompress(&bytes[stored_at..stored_at + stored], length).unwrap();
        assert!(one == raw[raw_at..raw_at + length]);
        (stored_at, raw_at) = (stored_at + stored, raw_at + length);
    }
    assert_eq!((stored_at, raw_at), (table - 8, raw.len()));
}

async fn an_abandoned_base_leaves_nothing(store: SharedStore) {
    let archive = archive_in(store).await;
    let mut writer = archive.begin_base(at(1, 10)).await.unwrap();
    writer.write(large_rdb()).await.unwrap();
    drop(writer);
    // Its place is free for the next try.
    let raw = Bytes::from_static(b"REDIS");
    let manifest = base_of(&archive, 1, 10, &raw).await;
    assert_eq!(
        bytes_of(archive.read_base(&manifest).await.unwrap())
            .await
            .unwrap(),
        raw
    );
}

async fn base_data_without_a_manifest_can_be_adopted(store: SharedStore) {
    let archive = archive_in(store).await;
    archive.create_history(&history(1)).await.unwrap();
    let raw = Bytes::from(samples::rdb("REDIS0010", b""));
    let mut writer = archive.begin_base(at(1, 10)).await.unwrap();
    writer.write(raw.clone()).await.unwrap();
    let first = writer.finish().await.unwrap();

    let catalog = archive.catalog().await.unwrap();
    let found = &catalog.histories[&id(1)];
    assert_eq!(found.bases, []);
    assert!(
        matches!(found.problems[0], Problem::Stray { base } if base == at(1, 10)),
        "{:?}",
        found.problems
    );

    let mut writer = archive.begin_base(at(1, 10)).await.unwrap();
    writer
        .write(Bytes::from_static(b"the second"))
        .await
        .unwrap();
    let name = Name::BaseData(at(1, 10)).to_string();
    assert!(matches!(
        writer.finish().await,
        Err(ArchiveError::BaseExists { object }) if object == name
    ));
    // What is read of it is what its writer would have said.
    let (stored, summary) = archive.walk_stray_base(at(1, 10)).await.unwrap();
    assert_eq!((stored, summary.bytes), (first, raw.len() as u64));
    assert!(matches!(
        archive.walk_stray_base(at(1, 11)).await,
        Err(ArchiveError::Missing { .. })
    ));
}

/// The bytes of another base, of the same sizes and with the same CRC-64, as every RDB has that ends with its own
/// checksum.
async fn the_data_of_another_base_is_not_taken_for_that_of_this_one(store: SharedStore) {
    let archive = archive_in(store).await;
    let raw = |value: &[u8]| {
        let key = [
            &[0xFE, 0, 0][..],
            &samples::string(b"k"),
            &samples::string(value),
        ]
        .concat();
        Bytes::from(samples::rdb("REDIS0010", &key))
    };
    let (one, two) = (raw(b"the one"), raw(b"another"));
    let first = base_of(&archive, 1, 10, &one).await;
    let second = base_of(&archive, 1, 20, &two).await;
    let sizes = |it: &BaseManifest| (it.raw_bytes, it.stored_bytes, it.crc64.clone());
    assert_eq!(sizes(&first), sizes(&second));
    let name = Name::BaseData(first.position()).to_string();
    let other = Name::BaseData(second.position()).to_string();
    let bytes = object(&archive, &other).await;
    replace(&archive, &name, bytes).await;
    for compared in [Compared::Data, Compared::Object] {
        let stream = archive.read_compared(&first, compared).await.unwrap();
        let error = bytes_of(stream).await.unwrap_err().to_string();
        assert!(error.contains("those of another base"), "{error}");
    }
    // A manifest of an earlier version, or of a later one with another algorithm, is read all the same.
    let mut other_digest = first.digest.clone();
    other_digest.as_mut().unwrap().algorithm = "blake9".to_owned();
    for digest in [None, other_digest] {
        let first = BaseManifest {
            digest,
            ..first.clone()
        };
        let stream = archive.read_base(&first).await.unwrap();
        assert_eq!(bytes_of(stream).await.unwrap(), two);
    }
}

/// A bit that means nothing to a reader from front to back does not keep a restore from its data, and is found when the
/// object itself is compared.
async fn a_seek_table_that_was_changed_is_found_and_hinders_no_restore(store: SharedStore) {
    let archive = archive_in(store).await;
    let raw = feed(0, 5000);
    let manifest = base_of(&archive, 1, 10, &raw).await;
    let name = Name::BaseData(at(1, 10)).to_string();
    let mut bytes = object(&archive, &name).await.to_vec();
    let in_table = bytes.len() - 10;
    bytes[in_table] ^= 1;
    replace(&archive, &name, bytes).await;
    let stream = archive.read_base(&manifest).await.unwrap();
    assert_eq!(bytes_of(stream).await.unwrap(), raw);
    let stream = archive.read_compared(&manifest, Compared::Object).await;
    let error = bytes_of(stream.unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("the RDB in it is right"), "{error}");
}

async fn a_damaged_base_is_a_typed_error(store: SharedStore) {
    let archive = archive_in(store).await;
    let raw = feed(0, 5000);
    let good = base_of(&archive, 1, 10, &raw).await;
    let name = Name::BaseData(at(1, 10)).to_string();
    let whole = object(&archive, &name).await;
    let read = async |manifest: &BaseManifest| match archive.read_base(manifest).await {
        Ok(stream) => bytes_of(stream).await,
        Err(error) => Err(error),
    };

    for length in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        replace(&archive, &name, whole.slice(..length)).await;
        let error = read(&good).await.unwrap_err();
        let names_it = matches!(&error, ArchiveError::Truncated { object, .. } if *object == name);
        assert!(names_it, "cut to {length}: {error}");
    }
    // Some bits of zstd's frame headers, and the seek table, mean nothing to a reader from front to back: if one of
    // those changes, the data is right all the same. What does not happen is wrong data.
    let mut harmless = 0;
    for flipped in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[flipped] ^= 0x10;
        replace(&archive, &name, bytes).await;
        match read(&good).await {
            Ok(all) => {
                assert_eq!(all, raw);
                harmless += 1;
            }
            Err(error) => {
                assert!(
                    error.to_string().starts_with(&name),
                    "byte {flipped}: {error}"
                );
            }
        }
    }
    assert!(harmless < 25, "{harmless} of {}", whole.len());
    let mut longer = whole.to_vec();
    longer.extend_from_slice(&whole);
    replace(&archive, &name, longer).await;
    assert!(matches!(
        read(&good).await,
        Err(ArchiveError::Damaged { .. })
    ));

    replace(&archive, &name, whole).await;
    assert_eq!(read(&good).await.unwrap(), raw);
    for wrong in [
        BaseManifest {
            raw_bytes: 4999,
            ..good.clone()
        },
        BaseManifest {
            crc64: "0123456789abcdef".to_owned(),
            ..good.clone()
        },
        BaseManifest {
            crc64: "rubbish".to_owned(),
            ..good.clone()
        },
    ] {
        assert!(matches!(
            read(&wrong).await,
            Err(ArchiveError::Damaged { .. })
        ));
    }
    archive.store.delete(&name).await.unwrap();
    assert!(matches!(
        read(&good).await,
        Err(ArchiveError::Missing { object }) if object == name
    ));
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_its_work() {
    let store = MemoryStore::new();
    let archive = archive_in(store.shared()).await;
    let manifest = base_of(&archive, 1, 10, &large_rdb()).await;
    let stream = archive.read_base(&manifest).await.unwrap();
    drop(stream);
    // The runtime of this test would wait for the blocking work for ever otherwise.
}
