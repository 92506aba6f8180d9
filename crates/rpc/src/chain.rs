//! An error shown together with its causes: [`ErrorChain`].

use std::error::Error;
use std::fmt;

/// An error and its causes in one line, joined by `: `.
///
/// The `Display` of an error says only its own part; the cause is its [`source`](Error::source).
/// Use this where a person reads the error:
///
/// ```
/// use syncraft_rpc::{CallError, ErrorChain};
///
/// let source = std::io::Error::other("connection refused");
/// let error = CallError::NotSent { addr: "a:1".to_owned(), source };
/// assert_eq!(error.to_string(), "call to a:1 was not sent");
/// assert_eq!(ErrorChain(&error).to_string(), "call to a:1 was not sent: connection refused");
/// ```
///
/// Some errors of other crates print their cause and return it too. Such a cause is not repeated.
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.0.to_string();
        f.write_str(&words)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let own_words = error.to_string();
            if !words.ends_with(&own_words) {
                write!(f, ": {own_words}")?;
            }
            (words, cause) = (own_words, error.source());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Outer {
        #[error("cannot listen")]
        Alone,
        #[error("cannot listen")]
        Keeps(#[source] io::Error),
        #[error("cannot listen: {0}")]
        KeepsAndPrints(#[source] io::Error),
        #[error("cannot start")]
        Nested(#[source] Box<Outer>),
    }

    #[test]
    fn each_cause_is_shown_once() {
        let check = |error: Outer, expected| {
            assert_eq!(ErrorChain(&error).to_string(), expected);
        };
        let cause = || io::Error::other("no such address");
        check(Outer::Alone, "cannot listen");
        check(Outer::Keeps(cause()), "cannot listen: no such address");
        check(Outer::KeepsAndPrints(cause()), "cannot listen: no such address");
        let nested = Outer::Nested(Box::new(Outer::Keeps(cause())));
        check(nested, "cannot start: cannot listen: no such address");
    }
}
