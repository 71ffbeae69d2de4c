//! Check characters, each by its published formula.
//!
//! A function returns `None` when its input does not have the length or the alphabet that the standard prescribes.

use crate::calendar;
use crate::tables;

const CITIZEN_WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
const ORGANISATION_WEIGHTS: [u32; 8] = [3, 7, 9, 10, 5, 8, 4, 2];

/// The MOD 37-2 check character (GB/T 17710-2008, ISO/IEC 7064) of digits and upper-case letters: a digit, a letter
/// or `*`. `None` when `body` is empty or holds anything else.
///
/// It detects every single substitution, and every swap of two different characters less than 36 places apart: the
/// weights repeat with period 36, which a 47-character contract id exceeds.
pub fn mod37_2(body: &str) -> Option<char> {
    let admitted =
        !body.is_empty() && body.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    admitted.then(|| char::from(mod37_2_byte(body.as_bytes())))
}

/// The 18th character of a unified social credit code (GB 32100-2015) from the first 17.
pub fn uscc(first17: &str) -> Option<char> {
    let values = values::<17>(first17, UscAlphabet::position)?;
    let mut weight = 1;
    let mut sum = 0;
    for value in values {
        sum += value * weight;
        weight = weight * 3 % 31;
    }
    UscAlphabet::character((31 - sum % 31) % 31)
}

/// The 9th character of an organisation code (GB 11714-1997) from the first 8, each a digit or an upper-case letter.
pub fn organisation(first8: &str) -> Option<char> {
    let values = values::<8>(first8, |byte| match byte {
        b'0'..=b'9' => Some(u32::from(byte - b'0')),
        b'A'..=b'Z' => Some(u32::from(byte - b'A') + 10),
        _ => None,
    })?;
    let remainder = weighted(&values, &ORGANISATION_WEIGHTS) % 11;
    match 11 - remainder {
        10 => Some('X'),
        11 => Some('0'),
        digit => char::from_digit(digit, 10),
    }
}

/// The 18th character of a citizen identity number (GB 11643-1999, MOD 11-2) from the first 17 digits.
pub fn citizen(first17: &str) -> Option<char> {
    let digits = values::<17>(first17, |byte| byte.is_ascii_digit().then(|| u32::from(byte - b'0')))?;
    match 12 - weighted(&digits, &CITIZEN_WEIGHTS) % 11 {
        10 => Some('X'),
        11 => Some('0'),
        12 => Some('1'),
        digit => char::from_digit(digit, 10),
    }
}

/// Whether a text is a citizen identity number (GB 11643-1999): a province, or 9 and a province for a permanent
/// resident from abroad; a day of birth in the years 1800 to 2099; and a matching check character, `X` in either case.
///
/// Province and day keep a code that merely has a matching check character, one in eleven, from being taken for one.
pub fn is_citizen_id(text: &str) -> bool {
    let Ok(bytes) = <&[u8; 18]>::try_from(text.as_bytes()) else { return false };
    let [a, b, c, _, _, _, y1, y2, y3, y4, m1, m2, d1, d2, _, _, _, check] = *bytes;
    let Some(expected) = text.get(..17).and_then(citizen) else { return false };
    let year = calendar::number(&[y1, y2, y3, y4]);
    char::from(check.to_ascii_uppercase()) == expected
        && (1800..=2099).contains(&year)
        && calendar::is_date(year, calendar::number(&[m1, m2]), calendar::number(&[d1, d2]))
        && (is_residence(a, b) || (a == b'9' && is_residence(b, c)))
}

/// The MOD 37-2 check character of bytes already known to be digits and upper-case letters.
pub(crate) fn mod37_2_byte(body: &[u8]) -> u8 {
    let remainder = body.iter().fold(0, |product, &byte| {
        let value = match byte {
            b'0'..=b'9' => u32::from(byte - b'0'),
            b'A'..=b'Z' => u32::from(byte - b'A') + 10,
            _ => 36,
        };
        (product + value) * 2 % 37
    });
    match (38 - remainder) % 37 {
        value @ 0..=9 => b'0' + value as u8,
        value @ 10..=35 => b'A' + (value - 10) as u8,
        _ => b'*',
    }
}

/// The 31 characters of GB 32100-2015: no I, O, S, V, Z.
pub(crate) struct UscAlphabet;

impl UscAlphabet {
    const CHARACTERS: &'static [u8; 31] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";

    pub(crate) fn position(byte: u8) -> Option<u32> {
        let index = Self::CHARACTERS.iter().position(|&candidate| candidate == byte)?;
        u32::try_from(index).ok()
    }

    fn character(position: u32) -> Option<char> {
        Self::CHARACTERS.get(usize::try_from(position).ok()?).map(|&byte| char::from(byte))
    }
}

/// 83 is what the residence permits of people from Taiwan begin with; GB/T 2260 itself has no such province.
fn is_residence(first: u8, second: u8) -> bool {
    let code = [first, second];
    code == *b"83" || std::str::from_utf8(&code).is_ok_and(|code| tables::PROVINCES.find(code).is_some())
}

fn values<const N: usize>(text: &str, value: impl Fn(u8) -> Option<u32>) -> Option<[u32; N]> {
    let bytes = <&[u8; N]>::try_from(text.as_bytes()).ok()?;
    let mut values = [0; N];
    for (place, &byte) in values.iter_mut().zip(bytes) {
        *place = value(byte)?;
    }
    Some(values)
}

fn weighted<const N: usize>(values: &[u32; N], weights: &[u32; N]) -> u32 {
    values.iter().zip(weights).map(|(value, weight)| value * weight).sum()
}
