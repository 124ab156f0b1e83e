//! An object of the log: its header, and its payload.

use backfeed::log::segment;
use backfeed::log::segment::{
    Entry, FRAME_RAW_LIMIT, HEADER_LIMIT, PayloadReader, SealHeader, SegmentHeader, SegmentMeta,
};
use backfeed::log::span::{PartReader, SpanEncoder};
use backfeed::runtime::buffers::Buffers;
use backfeed::wire::crc64::Crc64;
use backfeed::wire::position::{Boundary, Offset, ReplId, TimeMark};
use bytes::Bytes;

use super::choice;

pub fn check(data: &[u8]) {
    let Some((choice, rest)) = choice(data) else {
        return;
    };
    let size = usize::from(choice >> 2) + 1;
    match choice & 3 {
        0 => object(rest, size),
        1 => document(rest),
        2 => payload(rest, size),
        _ => feed(rest, size),
    }
}

/// Any bytes as an object.
fn object(bytes: &[u8], size: usize) {
    let decoded = segment::decode_entry(bytes);
    // The first beginning of it that is long enough must give the same.
    let first = bytes
        .chunks(size)
        .scan(0, |end, chunk| {
            *end += chunk.len();
            Some(segment::decode_entry(&bytes[..*end]))
        })
        .find(|decoded| !matches!(decoded, Ok(None)));
    match (&decoded, first) {
        // Bytes behind a seal are an error, which shows when they come.
        (Err(segment::SegmentError::TrailingBytes), _) => {}
        (decoded, Some(first)) => assert_eq!(*decoded, first),
        (decoded, None) => assert!(matches!(decoded, Ok(None)), "{decoded:?}"),
    }
    if let Ok(None) = decoded {
        assert!(bytes.len() < HEADER_LIMIT);
    }
    if let Ok(Some((Entry::Segment(header), length))) = decoded {
        read(&header, &bytes[length..], size);
    }
}

/// Any bytes as the content of a header, with a right checksum, which no mutation finds.
fn document(json: &[u8]) {
    let mut content = b"BACKFEED\x01\x00".to_vec();
    content.extend_from_slice(json);
    content.extend(Crc64::of(&content).to_le_bytes());
    let mut frame = 0x184D_2A5B_u32.to_le_bytes().to_vec();
    frame.extend((content.len() as u32).to_le_bytes());
    frame.extend(content);
    if let Ok(Some((entry, length))) = segment::decode_entry(&frame) {
        assert_eq!(length, frame.len());
        assert!(entry.is_same(&entry));
        // What it says can be said again.
        let again = match &entry {
            Entry::Seal(seal) => segment::encode_seal(seal),
            Entry::Segment(header) if header.is_gap() => {
                segment::encode_gap(header.meta.clone()).map(|(_, object)| object)
            }
            Entry::Segment(_) => return,
        };
        let again = segment::decode_entry(&again.unwrap()).unwrap().unwrap().0;
        assert!(again.history() == entry.history() && again.start() == entry.start());
    }
}

/// Any bytes as a payload, of which the header says the right sums.
fn payload(bytes: &[u8], size: usize) {
    let header = SegmentHeader {
        meta: meta(1 << 22),
        payload_crc64: 0,
        payload_stored: bytes.len() as u64,
        stored_crc64: Crc64::of(bytes),
        index: None,
    };
    read(&header, bytes, size);
}

fn read(header: &SegmentHeader, bytes: &[u8], size: usize) {
    let mut reader = PayloadReader::new(header, Buffers::default()).unwrap();
    let wanted = header.meta.end.since(header.meta.start);
    let mut raw = 0u64;
    for chunk in bytes.chunks(size) {
        let pushed = reader.push(chunk, &mut |frame| {
            assert!(frame.len() <= FRAME_RAW_LIMIT);
            raw += frame.len() as u64;
        });
        assert!(raw <= wanted);
        if pushed.is_err() {
            return;
        }
    }
    if reader.finish().is_ok() {
        assert_eq!(raw, wanted);
    }
    if header.is_span() {
        part(header, bytes, size);
    }
}

/// The second half of a span. Its range counts from the beginning of the object, and these are the bytes of its payload.
fn part(header: &SegmentHeader, payload: &[u8], size: usize) {
    let (start, end) = (header.meta.start, header.meta.end);
    let middle = Offset(start.0.midpoint(end.0));
    let made = PartReader::new(header, (middle, end), Buffers::default()).unwrap();
    let Some((mut reader, range)) = made else {
        return;
    };
    let length = range.end - range.start;
    let from = header.payload_stored - length;
    let bytes = usize::try_from(from)
        .ok()
        .and_then(|from| payload.get(from..));
    let mut raw = 0u64;
    for chunk in bytes.unwrap_or_default().chunks(size) {
        if reader
            .push(chunk, &mut |frame| raw += frame.len() as u64)
            .is_err()
        {
            return;
        }
    }
    assert!(raw <= end.since(middle));
    if reader.finish().is_ok() {
        assert_eq!(raw, end.since(middle));
    }
}

/// A span of these bytes.
fn span(raw: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut encoder = SpanEncoder::new(1).unwrap();
    let out = &mut |frame: Bytes| payload.extend_from_slice(&frame);
    encoder.push(raw, out).unwrap();
    let (_, header) = encoder.finish(meta(raw.len() as u64), out).unwrap();
    [&header[..], &payload].concat()
}

/// Any bytes as a piece of the feed: they come out as they went in.
fn feed(bytes: &[u8], size: usize) {
    if bytes.is_empty() {
        return;
    }
    let chunks: Vec<Bytes> = bytes.chunks(size).map(Bytes::copy_from_slice).collect();
    let (header, object) = segment::encode(meta(bytes.len() as u64), &chunks, 1).unwrap();
    let (entry, length) = segment::decode_entry(&object).unwrap().unwrap();
    assert_eq!(entry, Entry::Segment(header.clone()));
    let mut reader = PayloadReader::new(&header, Buffers::default()).unwrap();
    let mut raw = Vec::new();
    for chunk in object[length..].chunks(size) {
        let out = &mut |frame: Bytes| raw.extend_from_slice(&frame);
        reader.push(chunk, out).unwrap();
    }
    reader.finish().unwrap();
    assert_eq!(raw, bytes);
}

fn meta(length: u64) -> SegmentMeta {
    SegmentMeta {
        clock_back: None,
        history: ReplId::from_random([7; 20]),
        start: Offset(100),
        end: Offset(100 + length),
        db_at_start: 3,
        starts_at_boundary: true,
        boundary: Some(Boundary {
            offset: Offset(100 + length),
            db: 0,
        }),
        marks: vec![TimeMark {
            unix_ms: 1_700_000_000_000,
            offset: Offset(100 + length),
        }],
        writer: "fuzz".to_owned(),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let raw = b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*1\r\n$4\r\nPING\r\n";
    let chunks = [Bytes::from_static(raw)];
    let (_, object) = segment::encode(meta(raw.len() as u64), &chunks, 1).unwrap();
    let span = span(raw);
    let (_, span_header) = segment::decode_entry(&span).unwrap().unwrap();
    let (_, gap) = segment::encode_gap(meta(9)).unwrap();
    let seal = segment::encode_seal(&SealHeader {
        history: ReplId::from_random([1; 20]),
        start: Offset(0),
        reason: "it is over".to_owned(),
        writer: "fuzz".to_owned(),
        sealed_unix_ms: 1,
    })
    .unwrap();
    let (_, header) = segment::decode_entry(&object).unwrap().unwrap();
    let json = |object: &[u8], end: usize| object[18..end - 8].to_vec();
    let with = |choice: u8, bytes: &[u8]| [&[choice], bytes].concat();
    vec![
        with(0, &object),
        with(0xFC, &object),
        with(0, &span),
        with(0, &gap),
        with(0, &seal),
        with(1, &json(&object, header)),
        with(1, &json(&span, span_header)),
        with(1, &json(&gap, gap.len())),
        with(1, &json(&seal, seal.len())),
        with(2, &object[header..]),
        with(0x0A, &object[header..]),
        with(3, raw),
    ]
}
