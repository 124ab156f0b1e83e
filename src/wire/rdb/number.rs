//! Reads numbers from text as servers do: like C's `strtod`.
//!
//! Versions differ a little in what they accept (hexadecimal, blanks in front), not in what it means. The master
//! accepted every command in the feed, so everything that any version accepts is accepted here.

/// A double as an argument (scores, weights, coordinates): nothing before or after it, not NaN, and not too large or
/// too small.
#[must_use]
pub fn number(text: &[u8]) -> Option<f64> {
    let Parsed { value, lost } = parse(text)?;
    (!lost).then_some(value)
}

/// A double where servers check less (ends of ranges, what `SORT` sorts by). Blanks before it are skipped, it ends at a
/// zero byte, an empty text means 0, and a number that is too large is infinite. Not NaN.
#[must_use]
pub fn lenient(text: &[u8]) -> Option<f64> {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    if text.is_empty() {
        return Some(0.0);
    }
    let blanks = text
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r'));
    parse(text.get(blanks.count()..)?).map(|parsed| parsed.value)
}

/// A score in a packed blob, which servers read with `strtod` without further checks. The number at the beginning of
/// the text counts, and the rest does not. A text that does not begin with a number is 0. It may be NaN. None: versions
/// differ (Redis 8 knows no hexadecimal numbers, and no blank or plus sign before a number). No server writes such
/// scores.
#[must_use]
pub fn score(text: &[u8]) -> Option<f64> {
    /// The buffer that servers copy it to, without its end.
    const LONGEST: usize = 127;
    let text = text.get(..LONGEST).unwrap_or(text);
    if matches!(text.first(), Some(b'+' | b' ' | b'\t'..=b'\r')) {
        return None;
    }
    let sign = usize::from(text.first() == Some(&b'-'));
    let unsigned = text.get(sign..).unwrap_or_default();
    let begins = |word: &str| {
        let front = unsigned.get(..word.len());
        front.is_some_and(|front| front.eq_ignore_ascii_case(word.as_bytes()))
    };
    if begins("nan") {
        return Some(f64::NAN);
    }
    let length = if begins("inf") {
        "inf".len()
    } else if begins("0x") {
        return None;
    } else {
        digits(unsigned)
    };
    let number = text.get(..sign.saturating_add(length)).unwrap_or_default();
    Some(parse(number).map_or(0.0, |parsed| parsed.value))
}

/// The length of the decimal number at the beginning of the text: digits, with a point among them and an exponent after
/// them.
fn digits(text: &[u8]) -> usize {
    let run = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let whole = run(0);
    let (mut end, mut all) = (whole, whole);
    if text.get(end) == Some(&b'.') {
        let after = end.saturating_add(1);
        let fraction = run(after);
        all = all.saturating_add(fraction);
        end = after.saturating_add(fraction);
    }
    if all == 0 {
        return 0;
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let mut after = end.saturating_add(1);
        after = after.saturating_add(usize::from(matches!(text.get(after), Some(b'-' | b'+'))));
        let digits = run(after);
        if digits > 0 {
            end = after.saturating_add(digits);
        }
    }
    end
}

struct Parsed {
    value: f64,
    /// It was too large, or too small and not zero.
    lost: bool,
}

fn parse(text: &[u8]) -> Option<Parsed> {
    let unsigned = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+"));
    let unsigned = unsigned.unwrap_or(text);
    if let Some(hex) = unsigned
        .strip_prefix(b"0x")
        .or_else(|| unsigned.strip_prefix(b"0X"))
    {
        let parsed = hexadecimal(hex)?;
        let value = if text.starts_with(b"-") {
            -parsed.value
        } else {
            parsed.value
        };
        return Some(Parsed { value, ..parsed });
    }
    // Rust's grammar of decimal numbers is that of C; and both round to the nearest.
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    if value.is_nan() {
        return None;
    }
    let digits = unsigned.split(|byte| matches!(byte, b'e' | b'E')).next();
    let digits = digits.unwrap_or_default();
    let in_digits = unsigned
        .first()
        .is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'.'));
    let lost = in_digits
        && (value.is_infinite()
            || value == 0.0 && digits.iter().any(|byte| matches!(byte, b'1'..=b'9')));
    Some(Parsed { value, lost })
}

/// The part after `0x`: `1.8p3` is 1.5 times 2 to the power of 3.
fn hexadecimal(text: &[u8]) -> Option<Parsed> {
    let mut parts = text.splitn(2, |byte| matches!(byte, b'p' | b'P'));
    let mantissa = parts.next()?;
    let exponent = match parts.next() {
        Some(exponent) => std::str::from_utf8(exponent).ok()?.parse::<i32>().ok()?,
        None => 0,
    };
    let mut digits: u128 = 0;
    let mut scale = i64::from(exponent);
    let (mut seen, mut point) = (false, false);
    for byte in mantissa {
        if *byte == b'.' && !point {
            point = true;
            continue;
        }
        let digit = char::from(*byte).to_digit(16)?;
        seen = true;
        if digits >> 120 == 0 {
            digits = digits << 4 | u128::from(digit);
            scale = scale.saturating_sub(if point { 4 } else { 0 });
        } else {
            // Far behind the last bit of a double: it matters only that it is there.
            digits |= u128::from(digit != 0);
            scale = scale.saturating_add(if point { 0 } else { 4 });
        }
    }
    let mut value = digits as f64;
    while scale != 0 && value != 0.0 && value.is_finite() {
        let step = scale.clamp(-1000, 1000);
        value *= 2f64.powi(step as i32);
        scale = scale.saturating_sub(step);
    }
    let lost = !value.is_finite() || value == 0.0 && digits != 0;
    seen.then_some(Parsed { value, lost })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_servers_read_them() {
        for (text, value) in [
            ("1", 1.0),
            ("-1.50", -1.5),
            ("+5", 5.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("inf", f64::INFINITY),
            ("+Inf", f64::INFINITY),
            ("-INFINITY", f64::NEG_INFINITY),
            ("0x10", 16.0),
            ("-0x1.8p3", -12.0),
            ("0X.8P1", 1.0),
            ("0x1p-2", 0.25),
            ("9007199254740993", 9_007_199_254_740_992.0),
            ("0x20000000000001", 9_007_199_254_740_992.0),
            (
                "0x20000000000001.00000000000000000000000001",
                9_007_199_254_740_994.0,
            ),
            ("1.7976931348623157e308", f64::MAX),
            ("5e-324", 5e-324),
            ("0e-999", 0.0),
        ] {
            assert_eq!(number(text.as_bytes()), Some(value), "{text}");
        }
        assert!(number(b"-0").unwrap().is_sign_negative());
        for text in [
            "",
            " 1",
            "1 ",
            "nan",
            "-nan",
            "abc",
            "1e",
            "1e400",
            "-1e400",
            "1e-400",
            "0x",
            "0x.",
            "0xg",
            "1_0",
            "1\0",
            "e5",
            ".",
            "--1",
            "0x1p99999",
            "0x1p",
        ] {
            assert_eq!(number(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_score_in_a_blob_is_what_its_text_begins_with() {
        for (text, value) in [
            ("1.5", 1.5),
            ("1.5abc", 1.5),
            ("-0", 0.0),
            ("-2e3x", -2000.0),
            ("2e", 2.0),
            ("2e+", 2.0),
            ("5.", 5.0),
            (".5.5", 0.5),
            (".", 0.0),
            ("", 0.0),
            ("xyz", 0.0),
            ("-", 0.0),
            ("infinity", f64::INFINITY),
            ("-inf5", f64::NEG_INFINITY),
            ("1e400", f64::INFINITY),
            ("1\x005", 1.0),
        ] {
            assert_eq!(score(text.as_bytes()), Some(value), "{text}");
        }
        assert!(score(b"-0").unwrap().is_sign_negative());
        assert!(score(b"-nan").unwrap().is_nan() && score(b"NaN(1)").unwrap().is_nan());
        for text in [" 1", "+1", "0x10", "-0x1p3"] {
            assert_eq!(score(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_ends_of_ranges_are_read_less_strictly() {
        for (text, value) in [
            ("", 0.0),
            ("  7", 7.0),
            ("7\0abc", 7.0),
            ("1e400", f64::INFINITY),
            ("-1e400", f64::NEG_INFINITY),
            ("1e-400", 0.0),
        ] {
            assert_eq!(lenient(text.as_bytes()), Some(value), "{text}");
        }
        for text in ["nan", "7x", "7 ", " "] {
            assert_eq!(lenient(text.as_bytes()), None, "{text}");
        }
    }
}
