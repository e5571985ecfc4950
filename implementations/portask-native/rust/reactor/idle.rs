//! How the reactor waits when nothing is there.

use rustix::io::Result;
use std::time::{Duration, Instant};

/// A wait that polls comes up for air this often, for signals.
const BREATH: Duration = Duration::from_millis(10);

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
#[derive(Clone, Copy)]
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

    /// Waits until `ask`, which is told how long it may take (`None` for ever), finds something, `timeout` at most:
    /// polls without sleeping for as long as that seems worth it, then sleeps. Returns whether something was found.
    ///
    /// # Errors
    /// Those of `ask`.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut ask: impl FnMut(Option<Duration>) -> Result<bool>,
    ) -> Result<bool> {
        if self.idle == Idle::Sleep || timeout == Some(Duration::ZERO) {
            return ask(timeout); // without a look at the clock
        }
        let began = Instant::now();
        let spin = self.spin();
        let most = spin.unwrap_or(BREATH).min(timeout.unwrap_or(Duration::MAX));
        loop {
            if ask(Some(Duration::ZERO))? {
                self.waited(began.elapsed());
                return Ok(true);
            }
            if began.elapsed() >= most {
                break;
            }
            std::hint::spin_loop();
        }
        if spin.is_none() {
            return Ok(false);
        }
        let found = ask(timeout.map(|timeout| timeout.saturating_sub(most)))?;
        if found {
            self.waited(began.elapsed());
        }
        Ok(found)
    }

    /// How long to poll from now on; `None` for ever.
    fn spin(&self) -> Option<Duration> {
        match self.idle {
            Idle::Sleep => Some(Duration::ZERO),
            Idle::Spin => None,
            Idle::SpinThenSleep if self.lately < self.most => Some(self.most),
            Idle::SpinThenSleep => Some(Duration::ZERO),
        }
    }

    /// A wait of so long is over: something arrived.
    fn waited(&mut self, wait: Duration) {
        if self.idle == Idle::SpinThenSleep {
            // one long silence must not outweigh all that follows
            let wait = wait.min(self.most * 8);
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
            waiting.waited(Duration::from_micros(*wait));
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
        sleeping.waited(Duration::ZERO);
        assert_eq!(sleeping.spin(), Some(Duration::ZERO));
        assert_eq!(Waiting::new(Idle::Spin, Duration::ZERO).spin(), None);
    }
}
