//! When deliveries are due: a cron expression in a time zone. Pure.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use huitong_identity::ServiceError;
use huitong_proof::Timestamp;
use jiff::tz::TimeZone;

/// The longest cron expression, and the longest name of a time zone, in bytes.
const LONGEST: usize = 128;

/// A cron expression of five fields: minute, hour, day of the month, month, day of the week.
#[derive(Debug, Clone)]
pub struct Schedule {
    expression: String,
    /// IANA name; `None` is the node's own zone, whatever that is when it is asked.
    zone: Option<String>,
    /// `None` where this machine does not know the time zone any more: then it is never due.
    times: Option<(Cron, TimeZone)>,
}

impl Schedule {
    /// Reads an expression such as `30 2 * * MON-FRI`, and the IANA name of the time zone it is meant in.
    ///
    /// # Errors
    /// `Invalid` naming the field: an expression that is none, has seconds or a year, or never comes true; a time zone that
    /// this machine does not know.
    pub fn parse(expression: &str, zone: Option<&str>) -> Result<Self, ServiceError> {
        let invalid = |error: &dyn fmt::Display| ServiceError::invalid("cron", error.to_string());
        if expression.len() > LONGEST {
            return Err(invalid(&format!("expected at most {LONGEST} characters")));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| {
            invalid(&format!(
                "{error}; expected minute, hour, day, month and weekday, such as 30 2 * * MON-FRI"
            ))
        })?;
        let clock = match zone {
            None => TimeZone::system(),
            Some(name) if name.len() <= LONGEST => {
                TimeZone::get(name).map_err(|error| ServiceError::invalid("time_zone", error))?
            }
            Some(_) => {
                return Err(ServiceError::invalid(
                    "time_zone",
                    format!("expected at most {LONGEST} characters"),
                ));
            }
        };
        let times = Some((cron, clock));
        let schedule = Self { expression: expression.to_owned(), zone: zone.map(str::to_owned), times };
        match schedule.next(Timestamp::from_millis(0)) {
            Some(_) => Ok(schedule),
            None => Err(invalid(&format!("{expression:?} never comes true"))),
        }
    }

    /// Takes up what was stored of one.
    pub(crate) fn stored(expression: String, zone: Option<String>) -> Self {
        Self::parse(&expression, zone.as_deref()).unwrap_or(Self { expression, zone, times: None })
    }

    /// Whether this machine can tell when it is due.
    pub(crate) fn is_known(&self) -> bool {
        self.times.is_some()
    }

    /// The first moment after this one; `None` when there is none.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = jiff::Timestamp::from_millisecond(i64::try_from(after.millis()).ok()?).ok()?;
        let (cron, clock) = self.times.as_ref()?;
        let next = cron.find_next_occurrence(&after.to_zoned(clock.clone()), false).ok()?;
        u64::try_from(next.timestamp().as_millisecond()).ok().map(Timestamp::from_millis)
    }

    /// As it was given.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The IANA name of its time zone; `None` is the node's own.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        (&self.expression, &self.zone) == (&other.expression, &other.zone)
    }
}

impl Eq for Schedule {}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_millis(time.as_millisecond() as u64)
    }

    #[test]
    fn moments_follow_the_expression_in_its_zone() {
        for (expression, zone, after, next) in [
            ("0 3 * * *", "UTC", "2026-11-28T02:59:59.999Z", "2026-11-28T03:00:00Z"),
            ("0 3 * * *", "UTC", "2026-11-28T03:00:00Z", "2026-11-29T03:00:00Z"),
            ("*/15 * * * *", "UTC", "2026-11-28T03:01:00Z", "2026-11-28T03:15:00Z"),
            ("30 2 * * MON-FRI", "Asia/Shanghai", "2026-11-27T18:30:00Z", "2026-11-29T18:30:00Z"),
            ("0 0 1 JAN *", "UTC", "2026-11-28T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("0 0 29 2 *", "UTC", "2026-11-28T00:00:00Z", "2028-02-29T00:00:00Z"),
            // The clock goes from 2 to 3: what is due in between is due then.
            ("30 2 * * *", "Europe/Berlin", "2027-03-28T00:00:00Z", "2027-03-28T01:00:00Z"),
        ] {
            let schedule = Schedule::parse(expression, Some(zone)).unwrap();
            assert_eq!(schedule.next(at(after)), Some(at(next)), "{expression} {zone} after {after}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        let long = "0 ".repeat(100);
        for expression in
            ["", "0 3 * *", "0 0 3 * * *", "0 0 3 * * * 2027", "61 * * * *", "x * * * *", "0 0 30 2 *", &long]
        {
            let refused = Schedule::parse(expression, Some("UTC"));
            assert!(
                matches!(refused, Err(ServiceError::Invalid { field, .. }) if field == "cron"),
                "{expression}"
            );
        }
        for zone in ["Nowhere/City", "", "../etc/passwd"] {
            let refused = Schedule::parse("0 3 * * *", Some(zone));
            assert!(
                matches!(refused, Err(ServiceError::Invalid { field, .. }) if field == "time_zone"),
                "{zone}"
            );
        }
        assert!(Schedule::parse("0 3 * * *", None).is_ok());
    }
}
