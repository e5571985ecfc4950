//! How the reactor waits when nothing is there.

use std::time::{Duration, Instant};

/// What to do until something arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleep at once: waking up costs some tens of µs, waiting costs nothing.
    Sleep,
    /// Poll for a moment first, as long as that has been worth it lately.
    SpinThenSleep,
    /// Never sleep: burns one core.
    Spin,
}

/// Decides how long to poll before sleeping.
pub struct Waiting {
    idle: Idle,
    most: Duration,
    /// Moving average of the last waits: each counts a quarter.
    lately: Duration,
}

impl Waiting {
    /// `most` is the longest that `Idle::SpinThenSleep` polls.
    pub fn new(idle: Idle, most: Duration) -> Self {
        Waiting { idle, most, lately: Duration::ZERO }
    }

    /// Whether there is nothing to decide.
    pub fn sleeps_at_once(&self) -> bool {
        self.idle == Idle::Sleep
    }

    /// How long to poll from now on; `None` for ever.
    pub fn spin(&self) -> Option<Duration> {
        match self.idle {
            Idle::Sleep => Some(Duration::ZERO),
            Idle::Spin => None,
            Idle::SpinThenSleep if self.lately < self.most => Some(self.most),
            Idle::SpinThenSleep => Some(Duration::ZERO),
        }
    }

    /// A wait that began then is over: something arrived.
    pub fn waited(&mut self, since: Instant) {
        if self.idle == Idle::SpinThenSleep {
            // one long silence must not outweigh all that follows
            let wait = since.elapsed().min(self.most * 8);
            self.lately = self.lately - self.lately / 4 + wait / 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(waits: &[u64]) -> Waiting {
        let mut waiting = Waiting::new(Idle::SpinThenSleep, Duration::from_micros(100));
        for wait in waits {
            waiting.waited(Instant::now() - Duration::from_micros(*wait));
        }
        waiting
    }

    #[test]
    fn it_spins_only_while_waits_were_short_lately() {
        assert_eq!(after(&[]).spin(), Some(Duration::from_micros(100)));
        assert_eq!(after(&[10; 20]).spin(), Some(Duration::from_micros(100)));
        assert_eq!(after(&[10_000]).spin(), Some(Duration::ZERO));
        assert_eq!(after(&[200; 20]).spin(), Some(Duration::ZERO));
        let recovered = [&[1_000_000][..], &[10; 12]].concat();
        assert_eq!(after(&recovered).spin(), Some(Duration::from_micros(100)));
    }

    #[test]
    fn the_others_always_do_the_same() {
        let mut sleeping = Waiting::new(Idle::Sleep, Duration::from_secs(1));
        sleeping.waited(Instant::now());
        assert_eq!(sleeping.spin(), Some(Duration::ZERO));
        assert!(sleeping.sleeps_at_once());
        assert_eq!(Waiting::new(Idle::Spin, Duration::ZERO).spin(), None);
    }
}
