//! The states of a token, and the number of POSTs that they cost. In paused time, with an in-process source.

use std::time::Duration;

use osdatahub_auth::{AccessToken, ErrorKind, TokenManager, TokenState};
use test_support::{KINDS, LIFETIME, Outcome, Source, millis, secs};
use tokio::time::{Instant, advance, sleep, timeout};

/// Rounds to whole seconds: a token's age also depends on the wall clock, which tokio cannot pause.
fn rounded(duration: Duration) -> Duration {
    Duration::from_secs_f64(duration.as_secs_f64().round())
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_is_handed_out_without_asking_again() {
    let source = Source::healthy();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    advance(secs(220)).await;
    let later = tokens.token().await.unwrap();
    assert_eq!(first.expose_secret(), later.expose_secret());
    assert_eq!(source.count(), 1);
    assert_eq!(tokens.status().state, TokenState::Fresh);
}

#[tokio::test(start_paused = true)]
async fn a_299_s_token_costs_at_most_3_posts_in_600_s_at_one_caller_a_second() {
    let source = Source::healthy();
    let tokens = source.manager();
    for _ in 0..600 {
        tokens.token().await.unwrap();
        sleep(secs(1)).await;
    }
    assert!(source.count() <= 3, "{} POSTs", source.count());
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_without_a_token_cost_one_post() {
    let source = Source::new(|_| Outcome::token(LIFETIME).after(secs(2)));
    let tokens = source.manager();
    let callers: Vec<_> = (0..10_000)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.token().await.unwrap() })
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    for caller in callers {
        seen.insert(caller.await.unwrap().expose_secret().to_owned());
    }
    assert_eq!(source.count(), 1);
    assert_eq!(seen.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_caller_waits_for_a_slow_refresh_while_the_token_is_stale() {
    let source = Source::new(|_| Outcome::token(LIFETIME).after(secs(4)));
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    sleep(secs(251)).await;
    assert_eq!(tokens.status().state, TokenState::Stale);
    for _ in 0..40 {
        let before = Instant::now();
        tokens.token().await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        sleep(millis(100)).await;
    }
    sleep(secs(1)).await;
    assert_ne!(tokens.token().await.unwrap().expose_secret(), first.expose_secret());
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_turns_stale_within_its_window_and_unusable_at_289_s() {
    for _ in 0..50 {
        let source = Source::new(|_| Outcome::token(LIFETIME));
        let tokens = source.manager();
        let issued = Instant::now();
        tokens.token().await.unwrap();
        while tokens.status().state == TokenState::Fresh {
            advance(millis(100)).await;
        }
        let stale = issued.elapsed().as_secs_f64();
        assert!((224.2..=254.4).contains(&stale), "stale at {stale} s");
        while tokens.current().is_some() {
            advance(millis(100)).await;
        }
        let unusable = issued.elapsed().as_secs_f64();
        assert!((289.0..=289.2).contains(&unusable), "unusable at {unusable} s");
        assert_eq!(tokens.status().state, TokenState::Unusable);
        assert_eq!(source.count(), 1, "reading the status should not start a fetch");
    }
}

#[tokio::test(start_paused = true)]
async fn the_moment_of_renewal_is_drawn_for_each_token() {
    let source = Source::healthy();
    let mut renewals = std::collections::HashSet::new();
    for _ in 0..20 {
        let tokens = source.manager();
        tokens.token().await.unwrap();
        renewals.insert(tokens.status().next_attempt);
    }
    assert!(renewals.len() > 15, "{renewals:?}");
}

#[tokio::test(start_paused = true)]
async fn refresh_at_moves_the_moment_of_renewal() {
    let source = Source::new(|_| Outcome::token(secs(100)));
    let tokens = TokenManager::builder(source.clone())
        .refresh_at(0.5..=0.5)
        .build()
        .unwrap();
    tokens.token().await.unwrap();
    assert_eq!(tokens.status().next_attempt.map(rounded), Some(secs(50)));
}

#[tokio::test(start_paused = true)]
async fn an_unusable_token_makes_callers_wait_for_one_refresh() {
    let source = Source::healthy();
    let tokens = source.manager();
    let first = tokens.token().await.unwrap();
    advance(secs(289)).await;
    assert!(tokens.current().is_none());
    let (a, b) = tokio::join!(tokens.token(), tokens.token());
    let a = a.unwrap();
    assert_eq!(a.expose_secret(), b.unwrap().expose_secret());
    assert_ne!(a.expose_secret(), first.expose_secret());
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_life_counts_from_when_the_fetch_began() {
    let source = Source::new(|_| Outcome::token(LIFETIME).after(secs(20)));
    let tokens = TokenManager::builder(source).acquire_timeout(secs(30)).build().unwrap();
    assert_eq!(rounded(tokens.token().await.unwrap().remaining()), secs(279));
}

#[tokio::test(start_paused = true)]
async fn every_lifetime_is_cached_and_none_makes_a_hot_loop() {
    for lifetime in [millis(300), secs(1), secs(2), secs(5), secs(20), secs(60), secs(3600)] {
        let source = Source::new(move |_| Outcome::token(lifetime));
        let tokens = source.manager();
        let start = Instant::now();
        let run = (lifetime * 10).max(secs(20));
        while start.elapsed() < run {
            let token = tokens.token().await.unwrap();
            assert!(
                !token.remaining().is_zero(),
                "{lifetime:?}: an expired token was handed out"
            );
            sleep(millis(50)).await;
        }
        let fetches = source.fetches();
        for pair in fetches.windows(2) {
            assert!(
                pair[1].started - pair[0].started >= secs(1),
                "{lifetime:?}: the next fetch came too soon"
            );
        }
        // A token is used for at least 0.75 of its lifetime, or for a second.
        let max_fetches = 1 + run.as_millis() / lifetime.mul_f64(0.75).max(secs(1)).as_millis();
        assert!(
            fetches.len() as u128 <= max_fetches,
            "{lifetime:?}: {} POSTs",
            fetches.len()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn no_token_is_handed_out_past_its_end_however_short_its_life() {
    for lifetime in [millis(300), secs(1), secs(5), secs(10), secs(20), secs(60), LIFETIME] {
        let source = Source::new(move |n| match n {
            1 => Outcome::token(lifetime),
            _ => Outcome::failure(ErrorKind::Unavailable),
        });
        let tokens = source.manager();
        let start = Instant::now();
        let mut served_until = Duration::ZERO;
        while start.elapsed() < lifetime * 2 {
            if tokens.current().is_some() {
                served_until = start.elapsed();
            }
            if let Ok(Ok(token)) = timeout(millis(1), tokens.token()).await {
                assert!(!token.remaining().is_zero(), "{lifetime:?}");
                served_until = start.elapsed();
            }
            sleep(millis(10)).await;
        }
        assert!(served_until < lifetime, "{lifetime:?} served for {served_until:?}");
        assert!(
            served_until > lifetime.mul_f64(0.8),
            "{lifetime:?} served for {served_until:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_huge_life_counts_as_a_day() {
    let source = Source::new(|_| Outcome::token(Duration::MAX));
    let tokens = source.manager();
    assert_eq!(rounded(tokens.token().await.unwrap().remaining()), secs(86_400));
    assert!(tokens.status().next_attempt.unwrap() < secs(86_400));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_unusable_when_it_comes_is_a_failed_refresh() {
    for lifetime in [Duration::ZERO, secs(3)] {
        let source = Source::new(move |_| Outcome::exactly(AccessToken::new("t", lifetime).unwrap().with_age(secs(3))));
        let tokens = source.manager();
        let error = tokens.token().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MalformedResponse);
        assert!(tokens.current().is_none());
        assert_eq!(tokens.status().consecutive_failures as usize, source.count());
    }
}

#[tokio::test(start_paused = true)]
async fn token_lasting_renews_ahead_of_time_but_never_for_more_than_half_a_life() {
    let source = Source::new(|_| Outcome::token(secs(300)));
    let tokens = source.manager();
    let lasting = |at_least| {
        let tokens = tokens.clone();
        async move { rounded(tokens.token_lasting(at_least).await.unwrap().remaining()) }
    };
    assert_eq!(lasting(secs(1_000)).await, secs(300));
    assert_eq!(source.count(), 1);
    advance(secs(140)).await;
    assert_eq!(
        lasting(Duration::MAX).await,
        secs(160),
        "160 s is still more than half of the lifetime"
    );
    advance(secs(20)).await;
    assert_eq!(lasting(secs(100)).await, secs(140), "140 s is enough for 100 s");
    assert_eq!(source.count(), 1);
    assert_eq!(lasting(secs(145)).await, secs(300));
    assert_eq!(source.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn token_lasting_fails_rather_than_hand_out_less_but_token_still_serves() {
    let source = Source::new(|n| match n {
        1 => Outcome::token(secs(300)),
        _ => Outcome::failure(ErrorKind::Unavailable),
    });
    let tokens = source.manager();
    tokens.token().await.unwrap();
    advance(secs(200)).await;
    let error = tokens.token_lasting(secs(150)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(rounded(tokens.token().await.unwrap().remaining()), secs(100));
}

#[tokio::test(start_paused = true)]
async fn current_never_waits_and_never_asks() {
    let source = Source::healthy();
    let tokens = source.manager();
    assert!(tokens.current().is_none());
    assert_eq!(tokens.status().state, TokenState::Missing);
    sleep(secs(1)).await;
    assert_eq!(source.count(), 0);
    let token = tokens.token().await.unwrap();
    assert_eq!(tokens.current().unwrap().expose_secret(), token.expose_secret());
}

#[tokio::test(start_paused = true)]
async fn keep_warm_renews_without_traffic_until_the_guard_is_dropped() {
    let source = Source::healthy();
    let tokens = source.manager();
    let warm = tokens.keep_warm();
    sleep(secs(1)).await;
    assert_eq!(
        source.count(),
        1,
        "keep_warm should fetch the first token without a caller"
    );
    for _ in 0..3_600 {
        sleep(secs(1)).await;
        assert!(tokens.current().is_some());
    }
    let posts = source.count();
    assert!((15..=18).contains(&posts), "{posts} POSTs in an hour");
    drop(warm);
    sleep(secs(3_600)).await;
    assert_eq!(source.count(), posts);
}

#[tokio::test(start_paused = true)]
async fn keep_warm_goes_on_through_failures() {
    let source = Source::new(|n| match n {
        2..=8 => Outcome::failure(KINDS[n - 2]),
        _ => Outcome::token(LIFETIME),
    });
    let tokens = source.manager();
    let _warm = tokens.keep_warm();
    sleep(secs(500)).await;
    assert!(source.count() > 8);
    assert_eq!(tokens.status().consecutive_failures, 0);
    assert!(tokens.current().is_some());
}

#[test]
#[should_panic(expected = "keep_warm has to be called within a tokio runtime")]
fn keep_warm_outside_a_runtime_says_that_it_needs_one() {
    let tokens = Source::healthy().manager();
    let _warm = tokens.keep_warm();
}
