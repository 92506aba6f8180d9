//! Times as people write them: in flags, and in the queries of the HTTP front.

use std::time::Duration;

/// The longest time: 300 years, more than the longest time to live. A few of them added up are a
/// time, too, and there are moments that lie so far ahead.
const TIME_MAX: Duration = Duration::from_secs(300 * 365 * 24 * 60 * 60);

/// Parses `500ms`, `2s`, `1.5s`, `1m30s`: numbers with units, largest unit first, each unit at most
/// once.
///
/// # Errors
/// What a time looks like, in one line.
pub fn parse(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 4] = [("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001)];
    let (mut units, mut rest, mut seconds) = (UNITS.iter(), text, 0.0);
    loop {
        let number = leading(rest, |byte| byte.is_ascii_digit() || *byte == b'.');
        let unit = leading(&rest[number.len()..], u8::is_ascii_alphabetic);
        rest = &rest[number.len() + unit.len()..];
        // `units` continues after the last unit found, so each unit comes once and in order.
        let unit_seconds = units.find(|(name, _)| *name == unit).map(|(_, seconds)| *seconds);
        let (Some(unit_seconds), Ok(number)) = (unit_seconds, number.parse::<f64>()) else {
            return Err(
                "a time is a number and a unit (h, m, s, ms), or several: 500ms, 2s, 1m30s"
                    .to_owned(),
            );
        };
        seconds += number * unit_seconds;
        if rest.is_empty() {
            break;
        }
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() && time <= TIME_MAX => Ok(time),
        _ => Err("a time must be more than zero, and at most 300 years".to_owned()),
    }
}

/// The longest prefix of `text` whose bytes, all ASCII, satisfy `is_wanted`.
fn leading(text: &str, is_wanted: impl Fn(&u8) -> bool) -> &str {
    &text[..text.bytes().take_while(is_wanted).count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_numbers_and_units() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(parse(text).ok(), millis.map(Duration::from_millis), "{text:?}");
        };
        check("500ms", Some(500));
        check("2s", Some(2000));
        check("1.5s", Some(1500));
        check("1m", Some(60_000));
        check("1h", Some(3_600_000));
        check("1m30s", Some(90_000));
        check("1h1m1s1ms", Some(3_661_001));
        check("1h0.5s", Some(3_600_500));
        check("0m1s", Some(1000));
        check("2628000h", Some(300 * 365 * 24 * 3_600_000));
        for wrong in [
            "",
            "10",
            "s",
            "-1s",
            "1 s",
            "1d",
            "0s",
            "1..2s",
            "1e99s",
            "9999999999999999999999h",
            "2600000000000000h",
            "2628001h",
            "1m30",
            "30s1m",
            "1s1s",
            "1m 30s",
            "1m-30s",
            "m30s",
            "1m30s!",
            "1s\u{20AC}",
            "0m0s",
        ] {
            check(wrong, None);
        }
    }
}
