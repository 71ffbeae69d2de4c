use std::fmt;

use jiff::SignedDuration;
use jiff::civil::DateTime;

use crate::spans::{Span, Spans};

const MILLISECONDS_PER_MINUTE: u64 = 60_000;
const MINUTES_PER_DAY: u64 = 1_440;
const LAST_MINUTE: u64 = MINUTES_PER_DAY - 1;
const MILLISECONDS_PER_DAY: u64 = MINUTES_PER_DAY * MILLISECONDS_PER_MINUTE;

/// The times at which a rule can hold: instants in `moments` whose minute of the UTC day is in `minutes`.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    pub(crate) moments: Spans,
    pub(crate) minutes: Spans,
}

impl Times {
    pub(crate) fn always() -> Times {
        Times { moments: Spans::up_to(u64::MAX), minutes: Spans::up_to(LAST_MINUTE) }
    }

    pub(crate) fn contains(&self, now: u64) -> bool {
        self.moments.contains(now) && self.minutes.contains(minute_of_day(now))
    }

    /// Whether no instant is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.next_inside(0).is_none()
    }

    /// Whether none of them lies at or after `now`.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        self.next_inside(now).is_none()
    }

    /// The first instant after `now` at which [`Times::contains`] changes its answer.
    pub(crate) fn next_change(&self, now: u64) -> Option<u64> {
        if !self.contains(now) {
            return self.next_inside(now);
        }
        let end_of_span = self.moments.around(now).and_then(|span| span.last.checked_add(1));
        let end_of_window = next_minute_outside(&self.minutes, now);
        match (end_of_span, end_of_window) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn next_inside(&self, from: u64) -> Option<u64> {
        self.moments.iter().filter(|span| span.last >= from).find_map(|span| {
            next_minute_inside(&self.minutes, span.first.max(from)).filter(|instant| *instant <= span.last)
        })
    }
}

/// An interval of time: `start` included, `end` excluded, both in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    start: u64,
    end: u64,
}

impl Interval {
    /// Reads `start/end` (ISO 8601-1:2019, 5.5.1), each end an instant as in [`parse_instant`].
    pub(crate) fn parse(text: &str) -> Result<Interval, String> {
        let (start, end) = text
            .split_once('/')
            .ok_or("is not an interval; write start/end, e.g. 2026-01-01T00:00:00Z/2027-01-01T00:00:00Z")?;
        let start = parse_instant(start).map_err(|cause| format!("start of the interval {cause}"))?;
        let end = parse_instant(end).map_err(|cause| format!("end of the interval {cause}"))?;
        if start >= end {
            return Err("is an empty time window; its end must lie after its start".to_owned());
        }
        Ok(Interval { start, end })
    }

    pub(crate) fn span(&self) -> Span {
        // `end` is above `start`, hence above zero.
        Span { first: self.start, last: self.end.saturating_sub(1) }
    }

    pub(crate) fn bounds(&self) -> (u64, u64) {
        (self.start, self.end)
    }
}

/// A window that recurs every day: minutes of the local day, `start` included, `end` excluded, at a fixed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daily {
    start: u64,
    end: u64,
    offset_minutes: i64,
}

impl Daily {
    /// Reads `08:00-18:00` with an optional `Z` or fixed offset `+08:00`. `22:00-06:00` passes midnight; the end may
    /// be `24:00`.
    pub(crate) fn parse(text: &str) -> Result<Daily, String> {
        let malformed = || {
            "is not a time window; write start/end, or a daily window such as 08:00-18:00 or 08:00-18:00+08:00"
                .to_owned()
        };
        let minutes = |text: &str| -> Option<u64> {
            let (hour, minute) = (digits(text.get(0..2)?)?, digits(text.get(3..5)?)?);
            (text.get(2..3)? == ":" && minute < 60).then_some(hour.checked_mul(60)?.checked_add(minute)?)
        };
        let start = text.get(0..5).and_then(minutes).ok_or_else(malformed)?;
        let end = text.get(6..11).and_then(minutes).ok_or_else(malformed)?;
        if text.get(5..6) != Some("-") || start > LAST_MINUTE || end > MINUTES_PER_DAY {
            return Err(malformed());
        }
        let offset_minutes = match text.get(11..) {
            Some("") => 0,
            Some(offset) => parse_offset(offset).ok_or_else(malformed)?,
            None => return Err(malformed()),
        };
        if start == end {
            return Err("is an empty time window; its end must differ from its start".to_owned());
        }
        Ok(Daily { start, end, offset_minutes })
    }

    /// The minutes of the UTC day that lie inside.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let local = if self.start < self.end {
            vec![(self.start, self.end)]
        } else {
            vec![(self.start, MINUTES_PER_DAY), (0, self.end)]
        };
        let mut spans = Vec::new();
        for (start, end) in local.into_iter().filter(|(start, end)| start < end) {
            let first = self.to_utc(start);
            // `end` is above `start`, hence above zero.
            let last = self.to_utc(end.saturating_sub(1));
            if first <= last {
                spans.push(Span { first, last });
            } else {
                spans.push(Span { first, last: LAST_MINUTE });
                spans.push(Span { first: 0, last });
            }
        }
        spans
    }

    fn to_utc(&self, minute: u64) -> u64 {
        let day = MINUTES_PER_DAY.cast_signed();
        minute.cast_signed().saturating_sub(self.offset_minutes).rem_euclid(day).cast_unsigned()
    }
}

impl fmt::Display for Daily {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |minute: u64| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(formatter, "{}-{} UTC", clock(self.start), clock(self.end))?;
        if self.offset_minutes == 0 {
            return Ok(());
        }
        let sign = if self.offset_minutes < 0 { '-' } else { '+' };
        write!(formatter, "{sign}{}", clock(self.offset_minutes.unsigned_abs()))
    }
}

/// The complement of a set of minutes of the day.
pub(crate) fn other_minutes(minutes: &Spans) -> Spans {
    minutes.complement(LAST_MINUTE)
}

/// The minute of the UTC day, 0 to 1439. Unix time has no leap seconds, so every day has 86,400 seconds.
pub(crate) fn minute_of_day(now: u64) -> u64 {
    now % MILLISECONDS_PER_DAY / MILLISECONDS_PER_MINUTE
}

/// Reads an instant as milliseconds since 1970-01-01 UTC: RFC 3339 section 5.6 with upper-case `T` and `Z`, or
/// `YYYYMMDDHHMMSS`, which is UTC. Refuses leap seconds, parts of a millisecond and anything before 1970.
pub(crate) fn parse_instant(text: &str) -> Result<u64, &'static str> {
    const MALFORMED: &str =
        "is not an instant; write RFC 3339 such as 2027-01-01T00:00:00Z, or YYYYMMDDHHMMSS in UTC";
    let parts = if text.len() == 14 { split_compact(text) } else { split_rfc3339(text) };
    let parts = parts.ok_or(MALFORMED)?;
    if text.len() != 14 && parts.nanoseconds % 1_000_000 != 0 {
        return Err("is finer than a millisecond; write at most three decimals");
    }
    let [year, month, day, hour, minute, second] = parts.calendar;
    let small = |number: u64| i8::try_from(number).map_err(|_| MALFORMED);
    let civil = DateTime::new(
        i16::try_from(year).map_err(|_| MALFORMED)?,
        small(month)?,
        small(day)?,
        small(hour)?,
        small(minute)?,
        small(second)?,
        i32::try_from(parts.nanoseconds).map_err(|_| MALFORMED)?,
    )
    .map_err(|_| "is not a date and time of the calendar")?;
    let local = civil.duration_since(EPOCH).as_millis();
    let offset = i128::from(parts.offset_minutes).saturating_mul(i128::from(MILLISECONDS_PER_MINUTE));
    u64::try_from(local.saturating_sub(offset)).map_err(|_| "lies before 1970")
}

/// An instant for people: `2027-01-01 00:00:00 UTC`, with milliseconds when there are any.
pub(crate) fn show_instant(instant: u64) -> String {
    let civil = i64::try_from(instant)
        .ok()
        .and_then(|milliseconds| EPOCH.checked_add(SignedDuration::from_millis(milliseconds)).ok());
    match civil {
        Some(civil) => civil.strftime("%Y-%m-%d %H:%M:%S%.f UTC").to_string(),
        None => format!("{instant} milliseconds after 1970-01-01 00:00:00 UTC"),
    }
}

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

struct Parts {
    calendar: [u64; 6],
    nanoseconds: u64,
    offset_minutes: i64,
}

fn split_compact(text: &str) -> Option<Parts> {
    let part = |from: usize, to: usize| digits(text.get(from..to)?);
    let calendar = [part(0, 4)?, part(4, 6)?, part(6, 8)?, part(8, 10)?, part(10, 12)?, part(12, 14)?];
    Some(Parts { calendar, nanoseconds: 0, offset_minutes: 0 })
}

fn split_rfc3339(text: &str) -> Option<Parts> {
    let part = |from: usize, to: usize| digits(text.get(from..to)?);
    let separators = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
    for (position, separator) in separators {
        if !text.get(position..)?.starts_with(separator) {
            return None;
        }
    }
    let calendar = [part(0, 4)?, part(5, 7)?, part(8, 10)?, part(11, 13)?, part(14, 16)?, part(17, 19)?];
    let rest = text.get(19..)?;
    let (nanoseconds, offset) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(rest) => {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let fraction = rest.get(..length).filter(|fraction| (1..=9).contains(&fraction.len()))?;
            (digits(&format!("{fraction:0<9}"))?, rest.get(length..)?)
        }
    };
    Some(Parts { calendar, nanoseconds, offset_minutes: parse_offset(offset)? })
}

/// `Z`, or hours and minutes east of UTC such as `+08:00`.
fn parse_offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (hours, minutes) = (digits(text.get(1..3)?)?, digits(text.get(4..)?)?);
    if text.len() != 6 || text.get(3..4)? != ":" || hours > 23 || minutes > 59 {
        return None;
    }
    let offset = hours.saturating_mul(60).saturating_add(minutes).cast_signed();
    match text.get(0..1)? {
        "+" => Some(offset),
        "-" => Some(offset.saturating_neg()),
        _ => None,
    }
}

/// ASCII digits only: `str::parse` alone would take a leading `+`.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn next_minute_inside(minutes: &Spans, from: u64) -> Option<u64> {
    let minute = minute_of_day(from);
    if minutes.contains(minute) {
        return Some(from);
    }
    let day = from / MILLISECONDS_PER_DAY;
    match minutes.iter().find(|span| span.first > minute) {
        Some(span) => start_of_minute(day, span.first),
        None => start_of_minute(day.checked_add(1)?, minutes.iter().next()?.first),
    }
}

fn next_minute_outside(minutes: &Spans, from: u64) -> Option<u64> {
    let day = from / MILLISECONDS_PER_DAY;
    let end = minutes.around(minute_of_day(from))?.last.checked_add(1)?;
    if end < MINUTES_PER_DAY {
        return start_of_minute(day, end);
    }
    // The window reaches midnight: it may go on in the first span of the next day, or never end.
    let tomorrow = day.checked_add(1)?;
    match minutes.around(0) {
        None => start_of_minute(tomorrow, 0),
        Some(span) if span.last >= LAST_MINUTE => None,
        Some(span) => start_of_minute(tomorrow, span.last.checked_add(1)?),
    }
}

fn start_of_minute(day: u64, minute: u64) -> Option<u64> {
    day.checked_mul(MILLISECONDS_PER_DAY)?.checked_add(minute.checked_mul(MILLISECONDS_PER_MINUTE)?)
}
