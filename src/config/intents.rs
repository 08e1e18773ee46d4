//! Durations in the settings of intents.

use crate::base::units::parse_duration;
use crate::limits::STAY_S_MAX;

const WANTED: &str = "a duration of at most a day, such as 10min, or 0";

/// Whole seconds.
pub(super) fn read(text: &str) -> Result<u32, String> {
    let bare = text.ends_with(|last: char| last.is_ascii_digit());
    if bare && text != "0" {
        return Err(WANTED.to_owned());
    }
    let duration = if bare { Ok(std::time::Duration::ZERO) } else { parse_duration(text) };
    let seconds = duration.ok().and_then(|duration| u32::try_from(duration.as_secs()).ok());
    seconds.filter(|seconds| *seconds <= STAY_S_MAX).ok_or_else(|| WANTED.to_owned())
}

/// What reads as the same.
pub(super) fn show(seconds: u32) -> String {
    match seconds {
        0 => "0".to_owned(),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}min", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_shown_reads_as_the_same(seconds in 0..=STAY_S_MAX) {
            prop_assert_eq!(read(&show(seconds)), Ok(seconds));
        }
    }

    #[test]
    fn durations_are_bounded() {
        assert_eq!((read("10min"), read("0"), read("24h")), (Ok(600), Ok(0), Ok(86_400)));
        assert!(read("25h").is_err() && read("soon").is_err() && read("").is_err());
    }
}
