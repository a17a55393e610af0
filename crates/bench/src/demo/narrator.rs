//! Says on standard error what is going on: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// See the module.
pub struct Narrator {
    bar: Option<ProgressBar>,
}

impl Narrator {
    /// Looks at standard error to know how to speak.
    pub fn new() -> Narrator {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Narrator { bar }
    }

    /// A new step begins.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => line(text),
        }
    }

    /// The last step consists of that many parts.
    pub fn parts(&self, count: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(count);
            if let Ok(style) = ProgressStyle::with_template("{bar:24.cyan} {pos}/{len} {msg}") {
                bar.set_style(style);
            }
        }
    }

    /// One part is done.
    pub fn part(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
            bar.set_message(text.to_owned());
        }
    }

    /// Something that must stay on the screen.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }
}

/// Standard error may be closed or full: then nobody listens.
fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl Drop for Narrator {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
