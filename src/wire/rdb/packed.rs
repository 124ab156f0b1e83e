//! Collections that servers keep as one blob: listpack, ziplist, intset, zipmap (PROTOCOL.md D.6).

use std::fmt::Write as _;

use super::cursor::{BadValue, Cursor, canonical_i64};

const END: u8 = 0xFF;

/// The elements of a packed collection.
pub type Elements<'a> = Vec<Element<'a>>;

/// Fields and their values.
pub type Pairs<'a> = Vec<(&'a [u8], &'a [u8])>;

/// An element of a packed collection: a byte string, which is kept as an integer when it has the form of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element<'a> {
    /// Bytes.
    Str(&'a [u8]),
    /// A number, of which the element is the decimal text.
    Int(i64),
}

impl Element<'_> {
    /// The element as a byte string.
    #[must_use]
    pub fn to_bytes(&self) -> Box<[u8]> {
        match self {
            Self::Str(bytes) => Box::from(*bytes),
            Self::Int(number) => {
                let mut text = String::with_capacity(20);
                let _ = write!(text, "{number}");
                text.into_bytes().into_boxed_slice()
            }
        }
    }

    /// The element as a number.
    ///
    /// # Errors
    /// When it is none.
    pub fn to_i64(&self) -> Result<i64, BadValue> {
        match self {
            Self::Int(number) => Ok(*number),
            Self::Str(bytes) => {
                canonical_i64(bytes).ok_or(BadValue("an element should be a number"))
            }
        }
    }
}

/// The elements of a listpack, in order.
///
/// # Errors
/// When it is not one from its first to its last byte.
pub fn listpack(blob: &[u8]) -> Result<Elements<'_>, BadValue> {
    let mut input = Cursor::new(blob);
    check_length(u32::from_le_bytes(input.array()?), blob)?;
    let count = u16::from_le_bytes(input.array()?);
    let mut elements = Vec::with_capacity(usize::from(count).min(blob.len()));
    while let Some(element) = next_element(&mut input)? {
        elements.push(element);
    }
    input.finish()?;
    check_count(count, elements.len())?;
    Ok(elements)
}

/// Takes the next element from a listpack, and the back-length after it. None: the listpack ends here.
///
/// # Errors
/// When there is neither.
pub fn next_element<'a>(input: &mut Cursor<'a>) -> Result<Option<Element<'a>>, BadValue> {
    let before = input.rest().len();
    let Some(element) = listpack_element(input)? else {
        return Ok(None);
    };
    let size = before.saturating_sub(input.rest().len());
    input.take(back_length_size(size))?;
    Ok(Some(element))
}

fn listpack_element<'a>(input: &mut Cursor<'a>) -> Result<Option<Element<'a>>, BadValue> {
    let first = input.byte()?;
    let low = |mask: u8| usize::from(first & mask);
    Ok(Some(match first {
        0x00..=0x7F => Element::Int(first.into()),
        0x80..=0xBF => Element::Str(input.take(low(0x3F))?),
        0xC0..=0xDF => {
            let number = u16::from_be_bytes([first & 0x1F, input.byte()?]);
            // 13 bits with their sign.
            Element::Int((number.wrapping_shl(3) as i16 >> 3).into())
        }
        0xE0..=0xEF => {
            let length = u16::from_be_bytes([first & 0x0F, input.byte()?]);
            Element::Str(input.take(length.into())?)
        }
        0xF0 => {
            let length = u32::from_le_bytes(input.array()?) as usize;
            Element::Str(input.take(length)?)
        }
        0xF1 => Element::Int(i16::from_le_bytes(input.array()?).into()),
        0xF2 => Element::Int(int24(input.array()?)),
        0xF3 => Element::Int(i32::from_le_bytes(input.array()?).into()),
        0xF4 => Element::Int(input.i64_le()?),
        END => return Ok(None),
        0xF5..=0xFE => return Err(BadValue("a listpack has an unknown encoding")),
    }))
}

fn int24([a, b, c]: [u8; 3]) -> i64 {
    i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)
}

/// How many bytes the back-length of an element takes, by the size of its encoding and data.
fn back_length_size(size: usize) -> usize {
    match size {
        0..=127 => 1,
        128..=16_382 => 2,
        16_383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    }
}

/// A listpack in the making.
#[derive(Clone, Debug)]
pub struct ListpackWriter {
    bytes: Vec<u8>,
    count: usize,
}

impl ListpackWriter {
    /// Without elements.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: vec![0; 6],
            count: 0,
        }
    }

    /// Appends a byte string, as an integer when it has the form of one.
    pub fn push(&mut self, element: &[u8]) {
        if let Some(number) = canonical_i64(element) {
            return self.push_int(number);
        }
        let start = self.bytes.len();
        match element.len() {
            length @ 0..=0x3F => self.bytes.push(0x80 | length as u8),
            length @ 0x40..=0xFFF => {
                self.bytes
                    .extend_from_slice(&(0xE000 | length as u16).to_be_bytes());
            }
            length => {
                self.bytes.push(0xF0);
                self.bytes.extend_from_slice(&(length as u32).to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(element);
        self.end_element(start);
    }

    /// Appends a number.
    pub fn push_int(&mut self, number: i64) {
        let start = self.bytes.len();
        let bytes = number.to_le_bytes();
        let [a, b, c, d, ..] = bytes;
        match number {
            0..=127 => self.bytes.push(a),
            -4096..=4095 => self
                .bytes
                .extend_from_slice(&(0xC000 | (number as u16 & 0x1FFF)).to_be_bytes()),
            -32_768..=32_767 => self.bytes.extend_from_slice(&[0xF1, a, b]),
            -8_388_608..=8_388_607 => self.bytes.extend_from_slice(&[0xF2, a, b, c]),
            -2_147_483_648..=2_147_483_647 => {
                self.bytes.extend_from_slice(&[0xF3, a, b, c, d]);
            }
            _ => {
                self.bytes.push(0xF4);
                self.bytes.extend_from_slice(&bytes);
            }
        }
        self.end_element(start);
    }

    /// Bytes so far, including the end.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len().saturating_add(1)
    }

    /// Has it no elements?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many elements it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Only the elements, as they are in a listpack.
    #[must_use]
    pub fn elements(&self) -> &[u8] {
        self.bytes.get(6..).unwrap_or_default()
    }

    /// The listpack. It must stay below 4 GiB, which is what its length can say.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(END);
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        let header = length.to_le_bytes().into_iter().chain(count.to_le_bytes());
        for (to, from) in self.bytes.iter_mut().zip(header) {
            *to = from;
        }
        self.bytes
    }

    fn end_element(&mut self, start: usize) {
        let size = self.bytes.len().saturating_sub(start);
        let mut left = back_length_size(size);
        while left > 0 {
            left = left.saturating_sub(1);
            let seven = (size >> left.saturating_mul(7) & 0x7F) as u8;
            let follows = left.saturating_add(1) != back_length_size(size);
            self.bytes.push(if follows { seven | 0x80 } else { seven });
        }
        self.count = self.count.saturating_add(1);
    }
}

impl Default for ListpackWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// A ziplist of short elements in the making.
#[derive(Clone, Debug, Default)]
pub struct ZiplistWriter {
    elements: Vec<u8>,
    /// Bytes of the last element.
    last: usize,
    count: usize,
}

impl ZiplistWriter {
    /// Bytes before the first element.
    const HEADER: usize = 10;
    /// Longer elements are not written: the length of an element follows it in one byte.
    const LONGEST: usize = 200;

    /// Without elements.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a byte string, as an integer when it has the form of one. None: it is too long.
    pub fn push(&mut self, element: &[u8]) -> Option<()> {
        let (begin, length) = (self.elements.len(), u8::try_from(element.len()).ok()?);
        if element.len() > Self::LONGEST {
            return None;
        }
        self.elements.push(u8::try_from(self.last).ok()?);
        match (canonical_i64(element), length) {
            (Some(number), _) => {
                self.elements.push(0xE0);
                self.elements.extend_from_slice(&number.to_le_bytes());
            }
            (None, 0..=0x3F) => self.elements.push(length),
            (None, _) => self.elements.extend_from_slice(&[0x40, length]),
        }
        if canonical_i64(element).is_none() {
            self.elements.extend_from_slice(element);
        }
        self.last = self.elements.len().saturating_sub(begin);
        self.count = self.count.saturating_add(1);
        Some(())
    }

    /// The ziplist. It must stay below 4 GiB.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let tail = Self::HEADER.saturating_add(self.elements.len().saturating_sub(self.last));
        let length = Self::HEADER
            .saturating_add(self.elements.len())
            .saturating_add(1);
        let small = |size: usize| u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes();
        let count = u16::try_from(self.count).unwrap_or(u16::MAX).to_le_bytes();
        [
            &small(length)[..],
            &small(tail),
            &count,
            &self.elements,
            &[END],
        ]
        .concat()
    }
}

/// The elements of a ziplist, in order.
///
/// # Errors
/// When it is not one from its first to its last byte.
pub fn ziplist(blob: &[u8]) -> Result<Elements<'_>, BadValue> {
    let mut input = Cursor::new(blob);
    check_length(u32::from_le_bytes(input.array()?), blob)?;
    input.take(4)?; // where the last element begins
    let count = u16::from_le_bytes(input.array()?);
    let mut elements = Vec::with_capacity(usize::from(count).min(blob.len()));
    loop {
        match input.byte()? {
            END => break,
            0xFE => {
                input.take(4)?;
            }
            _ => {}
        }
        elements.push(ziplist_element(&mut input)?);
    }
    input.finish()?;
    check_count(count, elements.len())?;
    Ok(elements)
}

fn ziplist_element<'a>(input: &mut Cursor<'a>) -> Result<Element<'a>, BadValue> {
    let first = input.byte()?;
    Ok(match first {
        0x00..=0x3F => Element::Str(input.take(first.into())?),
        0x40..=0x7F => {
            let length = u16::from_be_bytes([first & 0x3F, input.byte()?]);
            Element::Str(input.take(length.into())?)
        }
        0x80..=0xBF => {
            let length = u32::from_be_bytes(input.array()?) as usize;
            Element::Str(input.take(length)?)
        }
        0xC0 => Element::Int(i16::from_le_bytes(input.array()?).into()),
        0xD0 => Element::Int(i32::from_le_bytes(input.array()?).into()),
        0xE0 => Element::Int(input.i64_le()?),
        0xF0 => Element::Int(int24(input.array()?)),
        0xFE => Element::Int(i8::from_le_bytes(input.array()?).into()),
        0xF1..=0xFD => Element::Int(i64::from(first & 0x0F).saturating_sub(1)),
        _ => return Err(BadValue("a ziplist has an unknown encoding")),
    })
}

/// The members of an intset, ascending.
///
/// # Errors
/// When it is not one from its first to its last byte.
pub fn intset(blob: &[u8]) -> Result<Vec<i64>, BadValue> {
    let mut input = Cursor::new(blob);
    let width = u32::from_le_bytes(input.array()?);
    let count = u32::from_le_bytes(input.array()?) as usize;
    if !matches!(width, 2 | 4 | 8) {
        return Err(BadValue("an intset has an unknown encoding"));
    }
    if count.checked_mul(width as usize) != Some(input.rest().len()) {
        return Err(BadValue("an intset's length is wrong"));
    }
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        members.push(match width {
            2 => i16::from_le_bytes(input.array()?).into(),
            4 => i32::from_le_bytes(input.array()?).into(),
            _ => input.i64_le()?,
        });
    }
    Ok(members)
}

/// Fields and values of a zipmap.
///
/// # Errors
/// When it is not one from its first to its last byte.
pub fn zipmap(blob: &[u8]) -> Result<Pairs<'_>, BadValue> {
    let mut input = Cursor::new(blob);
    let count = input.byte()?;
    let mut pairs = Vec::new();
    while let Some(length) = zipmap_length(&mut input)? {
        let field = input.take(length)?;
        let length = zipmap_length(&mut input)?.ok_or(BadValue("a zipmap's field has no value"))?;
        let free = input.byte()?;
        let value = input.take(length)?;
        input.take(free.into())?;
        pairs.push((field, value));
    }
    input.finish()?;
    if count < 254 && usize::from(count) != pairs.len() {
        return Err(BadValue(
            "a zipmap has another number of fields than it says",
        ));
    }
    Ok(pairs)
}

fn zipmap_length(input: &mut Cursor<'_>) -> Result<Option<usize>, BadValue> {
    Ok(match input.byte()? {
        END => None,
        254 => Some(u32::from_le_bytes(input.array()?) as usize),
        length => Some(length.into()),
    })
}

fn check_length(said: u32, blob: &[u8]) -> Result<(), BadValue> {
    if said as usize == blob.len() {
        Ok(())
    } else {
        Err(BadValue(
            "a packed collection has another length than it says",
        ))
    }
}

/// 65535 means that the elements have to be counted.
fn check_count(said: u16, found: usize) -> Result<(), BadValue> {
    if said == u16::MAX || usize::from(said) == found {
        Ok(())
    } else {
        Err(BadValue(
            "a packed collection has another number of elements than it says",
        ))
    }
}

#[cfg(test)]
#[path = "packed_tests.rs"]
mod tests;
