use std::{
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tokio::runtime::Builder;

/// Runs an example of the documentation twice: it should pass with `BearerAuth`, and fail without.
pub fn fails_without_bearer_auth(example: impl AsyncFn(bool) -> Result<(), Box<dyn Error>>) {
    let run = |with_auth| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(example(with_auth))
    };
    run(true).unwrap();
    let without = catch_unwind(AssertUnwindSafe(|| run(false)));
    assert!(
        !matches!(without, Ok(Ok(()))),
        "the example passes without BearerAuth as well"
    );
}
