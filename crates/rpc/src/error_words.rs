//! What a person may expect of the words of every error. For tests only; the crate `syncraft`
//! includes this file in its own tests.

use std::error::Error;

use super::ErrorChain;

/// A list of errors with at least one value of each variant of `$error`. It does not compile if a
/// variant is missing. A variant without fields is written with braces: `NoAddress {}`.
macro_rules! every_variant {
    ($error:ident: $($variant:ident $fields:tt),+ $(,)?) => {{
        #[allow(unreachable_patterns, reason = "a variant may be listed twice")]
        fn _has_every_variant(error: &$error) {
            match error {
                $($error::$variant { .. } => {}),+
            }
        }
        vec![$($error::$variant $fields),+]
    }};
}
pub(crate) use every_variant;

/// Checks that each error is one line, in the style of error messages, and says its own part only.
pub(crate) fn check_all<E: Error + 'static>(errors: &[E]) {
    for error in errors {
        assert!(!error.to_string().contains('\n'), "{error:?} is more than one line");
        check(error);
    }
}

/// As [`check_all`], for an error that may be several lines.
pub(crate) fn check(error: &(dyn Error + 'static)) {
    let shown = ErrorChain(error).to_string();
    let mut part = Some(error);
    while let Some(error) = part {
        let words = error.to_string();
        assert!(!words.trim().is_empty(), "{error:?} says nothing");
        assert!(!words.ends_with(['.', ':', ' ', '\n']), "the end of {words:?}");
        assert!(!words.starts_with(|c: char| c.is_uppercase()), "the beginning of {words:?}");
        assert_eq!(shown.matches(&words).count(), 1, "{words:?} in {shown:?}");
        part = error.source();
        if let Some(cause) = part {
            assert!(!words.contains(&cause.to_string()), "{words:?} repeats its cause");
        }
    }
}
