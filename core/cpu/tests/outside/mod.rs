//! Tests that need files from elsewhere, named by environment variables.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

/// A test that gets the values of `variables`, and counts as ignored where one is not set.
pub(crate) fn test(
    name: &str,
    variables: &'static [&'static str],
    body: impl FnOnce(Vec<String>) + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        let mut values = Vec::new();
        for name in variables {
            match std::env::var(name) {
                Ok(value) => values.push(value),
                Err(_) => return Ok(Completion::ignored_with(format!("{name} is not set"))),
            }
        }
        // A panic is caught by the harness and is the test's failure.
        body(values);
        Ok(Completion::Completed)
    })
}

/// Runs the tests.
pub(crate) fn main(tests: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}
