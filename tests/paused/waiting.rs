//! How long a caller waits: until there is a usable token, or until its `acquire_timeout`.

use async_trait::async_trait;
use futures_util::FutureExt;
use http::Extensions;
use osdatahub_auth::{BearerAuth, Error, ErrorKind, TokenManager};
use reqwest::{Request, Response, ResponseBuilderExt};
use reqwest_middleware::{ClientBuilder, Middleware, Next, Result};
use test_support::{LIFETIME, Outcome, Source, millis, secs};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep};

/// Two failures of a token endpoint that is starting up, then tokens.
fn two_failures(n: usize) -> Outcome {
    match n {
        1 | 2 => Outcome::failure(ErrorKind::Unavailable).after(millis(6)),
        _ => Outcome::token(LIFETIME).after(millis(6)),
    }
}

#[tokio::test(start_paused = true)]
async fn two_failures_at_the_start_cost_three_posts_and_fail_no_caller() {
    for callers in [1, 500] {
        let source = Source::new(two_failures);
        let tokens = source.manager();
        let mut waiting = JoinSet::new();
        for _ in 0..callers {
            let tokens = tokens.clone();
            waiting.spawn(async move { tokens.token().await.map(drop) });
        }
        for result in waiting.join_all().await {
            result.unwrap();
        }
        assert_eq!(source.count(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_just_after_a_caller_came_is_not_its_own() {
    for came in [millis(0), millis(999), millis(1_000), millis(1_001)] {
        let source = Source::new(|n| match n {
            1 => Outcome::failure(ErrorKind::Unavailable).after(secs(1)),
            _ => Outcome::token(LIFETIME).after(millis(50)),
        });
        let tokens = source.manager();
        let _warm = tokens.keep_warm();
        sleep(came).await;
        tokens.token().await.unwrap();
        assert_eq!(source.count(), 2, "{came:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_fails_as_soon_as_the_next_attempt_would_come_too_late() {
    // An attempt takes no time, so that none is under way at the deadline.
    let source = Source::new(|_| Outcome::failure(ErrorKind::Unavailable));
    let tokens = source.manager();
    let start = Instant::now();
    let error = tokens.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() < secs(10), "{:?}", start.elapsed());
    let next = error.retry_after().unwrap();
    assert!(start.elapsed() + next > secs(10), "the next one starts in {next:?}");
    assert!(source.count() >= 3, "{} attempts", source.count());
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_ends_the_wait_at_once() {
    let source = Source::new(|n| match n {
        1 => Outcome::failure(ErrorKind::Unavailable),
        _ => Outcome::failure(ErrorKind::CredentialsRejected),
    });
    let tokens = source.manager();
    let error = tokens.token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CredentialsRejected);
    assert_eq!(error.retry_after(), Some(secs(5)));
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_a_caller_learns_what_it_waited_for() {
    let source = Source::new(|n| match n {
        1 => Outcome::failure(ErrorKind::RateLimited),
        _ => Outcome::token(LIFETIME).after(secs(20)),
    });
    let tokens = source.manager();
    let start = Instant::now();
    let error = tokens.token().await.unwrap_err();
    assert_eq!(start.elapsed(), secs(10));
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let shown = error.to_string();
    assert!(shown.contains("the acquire_timeout of 10s"), "{shown}");
    assert!(shown.contains("the refresh that was due 9."), "{shown}");
    assert!(shown.ends_with("ago has not ended"), "{shown}");
    let cause = std::error::Error::source(&error).and_then(|cause| Error::find_in(cause));
    assert_eq!(cause.unwrap().kind(), ErrorKind::RateLimited);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_learns_of_a_failure_after_its_deadline_is_told_when_the_next_attempt_is() {
    let source = Source::new(|_| Outcome::failure(ErrorKind::Unavailable).after(secs(1)));
    let tokens = TokenManager::builder(source)
        .acquire_timeout(millis(1_010))
        .build()
        .unwrap();
    let mut caller = Box::pin(tokens.token());
    assert!(caller.as_mut().now_or_never().is_none());
    tokio::task::yield_now().await;
    // The runtime is busy when the attempt fails, and when the deadline passes.
    advance(millis(1_050)).await;
    tokio::task::yield_now().await;
    let error = caller.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.retry_after().unwrap() >= millis(400), "{error:?}");
}

/// A terminal layer that refuses every token without a reason.
struct Refusing;

#[async_trait]
impl Middleware for Refusing {
    async fn handle(&self, request: Request, _: &mut Extensions, _: Next<'_>) -> Result<Response> {
        let response = http::Response::builder().status(401).url(request.url().clone());
        Ok(response.body("").unwrap().into())
    }
}

/// A manager that has held its token for 200 s. Every further fetch fails after 50 ms.
async fn with_a_usable_token() -> (TokenManager, Instant) {
    let source = Source::new(|n| match n {
        1 => Outcome::token(LIFETIME),
        _ => Outcome::failure(ErrorKind::Unavailable).after(millis(50)),
    });
    let tokens = source.manager();
    tokens.token().await.unwrap();
    advance(secs(200)).await;
    (tokens, Instant::now())
}

#[tokio::test(start_paused = true)]
async fn while_there_is_a_usable_token_the_first_failure_ends_the_wait() {
    let (tokens, start) = with_a_usable_token().await;
    let error = tokens.token_lasting(secs(120)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(start.elapsed(), millis(50));

    let (tokens, start) = with_a_usable_token().await;
    tokens.hand_out(secs(120)).await.unwrap();
    assert_eq!(start.elapsed(), millis(50));

    let (tokens, start) = with_a_usable_token().await;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(BearerAuth::new(tokens))
        .with(Refusing)
        .build();
    let response = client.get("https://api.os.uk/").send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(start.elapsed(), millis(50));
}

#[tokio::test(start_paused = true)]
async fn without_a_usable_token_every_need_waits_for_the_next_attempt() {
    for lasting in [false, true] {
        let source = Source::new(two_failures);
        let tokens = source.manager();
        if lasting {
            tokens.token_lasting(secs(120)).await.unwrap();
        } else {
            tokens.hand_out(secs(120)).await.unwrap();
        }
        assert_eq!(source.count(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_deadline_passed_while_the_process_was_stopped_gets_one_more_second() {
    for (arrives, in_time) in [(millis(16_900), true), (millis(17_100), false)] {
        let source = Source::new(move |_| Outcome::token(LIFETIME).after(arrives));
        let tokens = TokenManager::builder(source).acquire_timeout(secs(4)).build().unwrap();
        let start = Instant::now();
        let caller = tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.token().await }
        });
        sleep(secs(1)).await;
        // The process is stopped for 15 s, and wakes 12 s after the deadline.
        advance(secs(15)).await;
        let result = caller.await.unwrap();
        assert_eq!(result.is_ok(), in_time, "{result:?}");
        assert_eq!(start.elapsed(), arrives.min(secs(17)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_outlived_its_token_is_a_timeout_and_not_the_servers_fault() {
    let source = Source::new(|n| match n {
        1 => Outcome::token(secs(4)).after(secs(5)),
        _ => Outcome::token(secs(4)),
    });
    let tokens = source.manager();
    let caller = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.token().await }
    });
    sleep(millis(5_100)).await;
    assert_eq!(tokens.status().last_error.unwrap().kind(), ErrorKind::Timeout);
    caller.await.unwrap().unwrap();
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_of_a_dead_endpoint_share_its_attempts_and_all_end_in_time() {
    // Every fetch takes 2 s, so two that overlap would show.
    let source = Source::new(|_| Outcome::failure(ErrorKind::Unavailable).after(secs(2)));
    let tokens = source.manager();
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..10_000 {
        let tokens = tokens.clone();
        callers.spawn(async move {
            tokens.token().await.unwrap_err();
        });
    }
    callers.join_all().await;
    assert!(start.elapsed() <= secs(10), "{:?}", start.elapsed());
    let fetches = source.fetches();
    assert!(fetches.len() >= 3, "{} fetches", fetches.len());
    for pair in fetches.windows(2) {
        assert!(
            pair[0].ended.is_some_and(|ended| ended <= pair[1].started),
            "two fetches at once"
        );
    }
}
