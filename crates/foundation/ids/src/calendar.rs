//! Just enough of the proleptic Gregorian calendar to refuse days and moments that never were.

/// Whether a year, month and day name a day; years 1 to 9999.
pub(crate) fn is_date(year: u32, month: u32, day: u32) -> bool {
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => return false,
    };
    (1..=9999).contains(&year) && (1..=days).contains(&day)
}

/// Whether fourteen ASCII digits YYYYMMDDHHMMSS name a moment. Leap seconds have no place in a name and are refused.
pub(crate) fn is_moment(digits: &[u8; 14]) -> bool {
    let [y1, y2, y3, y4, m1, m2, d1, d2, h1, h2, i1, i2, s1, s2] = *digits;
    if !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    is_date(number(&[y1, y2, y3, y4]), number(&[m1, m2]), number(&[d1, d2]))
        && number(&[h1, h2]) < 24
        && number(&[i1, i2]) < 60
        && number(&[s1, s2]) < 60
}

/// The value of at most nine ASCII digits.
pub(crate) fn number(digits: &[u8]) -> u32 {
    digits
        .iter()
        .fold(0_u32, |sum, byte| sum.saturating_mul(10).saturating_add(u32::from(byte.saturating_sub(b'0'))))
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}
