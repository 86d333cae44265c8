//! What is sent again, and when: pure decisions.

use std::time::Duration;

use tokio::time::Instant;

use crate::kind::Kind;

/// The first pause before a root that was tried already is tried again; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What came of an attempt, when it is not simply an answer to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No connection was made: the root has seen nothing of it.
    Unsent,
    /// The connection broke later: the root may have carried it out.
    Lost,
    /// The root says that it cannot now, and maybe when to ask again.
    Refused { retry_after: Option<Duration> },
}

impl Trouble {
    /// The statuses that say "not now".
    pub(crate) fn of_status(status: u16, retry_after: Option<Duration>) -> Option<Self> {
        matches!(status, 429 | 502..=504).then_some(Self::Refused { retry_after })
    }

    /// Whether the request may be sent again after this. `whole`: its whole body is at hand, and not just its beginning.
    pub(crate) fn allows_repeat(self, kind: Kind, whole: bool, untouched: bool) -> bool {
        match self {
            Self::Unsent => whole || untouched,
            Self::Lost | Self::Refused { .. } => whole && kind != Kind::Once,
        }
    }
}

/// A request's times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// No attempt begins later.
    pub(crate) repeat_until: Instant,
    /// The client wants no answer later.
    pub(crate) deadline: Option<Instant>,
}

/// When the next attempt begins; `None` when that would be too late. `fresh`: there is a root that was not tried.
pub(crate) fn next_attempt(
    trouble: Trouble,
    attempts: u32,
    fresh: bool,
    chance: f64,
    now: Instant,
    times: Times,
) -> Option<Instant> {
    let retry_after = match trouble {
        Trouble::Refused { retry_after } => retry_after.unwrap_or_default(),
        Trouble::Unsent | Trouble::Lost => Duration::ZERO,
    };
    // Another root may have room at once; the same one has said when.
    let pause = if fresh { Duration::ZERO } else { backoff(attempts, chance).max(retry_after) };
    let at = now + pause;
    let in_time = at < times.repeat_until && times.deadline.is_none_or(|deadline| at < deadline);
    in_time.then_some(at)
}

/// Between half of the pause and all of it.
fn backoff(attempts: u32, chance: f64) -> Duration {
    let full = PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(PAUSE_MAX);
    full.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

/// A duration as applications write it in `X-Request-Timeout`: seconds, or a number with `ms` or `s`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.trim().parse::<f64>().ok()? * unit;
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const REFUSED: Trouble = Trouble::Refused { retry_after: None };

    #[test]
    fn only_what_is_safe_is_sent_again() {
        for (kind, whole, untouched, unsent, lost) in [
            (Kind::Read, true, true, true, true),
            (Kind::Keyed, true, true, true, true),
            (Kind::Once, true, true, true, false),
            // Larger than what is kept.
            (Kind::Keyed, false, true, true, false),
            (Kind::Keyed, false, false, false, false),
            (Kind::Once, false, true, true, false),
        ] {
            let case = format!("{kind:?} {whole} {untouched}");
            assert_eq!(Trouble::Unsent.allows_repeat(kind, whole, untouched), unsent, "{case}");
            assert_eq!(Trouble::Lost.allows_repeat(kind, whole, untouched), lost, "{case}");
            assert_eq!(REFUSED.allows_repeat(kind, whole, untouched), lost, "{case}");
        }
    }

    #[test]
    fn statuses() {
        for status in [200, 201, 400, 404, 408, 409, 413, 500, 501] {
            assert_eq!(Trouble::of_status(status, None), None, "{status}");
        }
        for status in [429, 502, 503, 504] {
            assert_eq!(Trouble::of_status(status, None), Some(REFUSED), "{status}");
        }
    }

    #[test]
    fn another_root_is_asked_at_once_and_the_same_one_when_it_said() {
        let now = Instant::now();
        let times = Times { repeat_until: now + Duration::from_secs(30), deadline: None };
        let busy = Trouble::Refused { retry_after: Some(Duration::from_secs(3)) };
        assert_eq!(next_attempt(busy, 1, true, 0.5, now, times), Some(now));
        assert_eq!(next_attempt(busy, 1, false, 0.5, now, times), Some(now + Duration::from_secs(3)));
        let pauses: Vec<_> = [1, 2, 3, 20]
            .map(|attempts| next_attempt(Trouble::Unsent, attempts, false, 1.0, now, times).unwrap() - now)
            .iter()
            .map(Duration::as_millis)
            .collect();
        assert_eq!(pauses, [50, 100, 200, 2_000]);
        let least = next_attempt(Trouble::Unsent, 1, false, 0.0, now, times).unwrap() - now;
        assert_eq!(least.as_millis(), 25);
        // What would come too late is not begun.
        let soon = Times { deadline: Some(now + Duration::from_secs(2)), ..times };
        assert_eq!(next_attempt(busy, 1, false, 0.5, now, soon), None);
        assert_eq!(next_attempt(busy, 1, true, 0.5, now + Duration::from_secs(31), times), None);
    }

    #[test]
    fn timeouts() {
        assert_eq!(duration("2"), Some(Duration::from_secs(2)));
        assert_eq!(duration(" 1500ms"), Some(Duration::from_millis(1_500)));
        assert_eq!(duration("0.5s"), Some(Duration::from_millis(500)));
        for text in ["", "-1", "soon", "NaN", "inf", "0", "1e300"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
