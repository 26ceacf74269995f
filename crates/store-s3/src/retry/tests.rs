//! Pauses and budgets, in paused time.

use super::*;
use crate::requests::Cause;

fn server() -> Failure {
    Failure::new(Cause::Server, "status 500")
}

#[tokio::test(start_paused = true)]
async fn attempts_end_with_the_budget() {
    let budget = Duration::from_secs(15);
    let started = Instant::now();
    let mut tries = Tries::within(budget);
    let mut attempts = 1;
    while tries.again(server()).await.is_ok() {
        attempts += 1;
    }
    assert!(started.elapsed() < budget);
    assert!((5..200).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn pauses_are_bounded_and_a_server_s_wish_is_heard() {
    let mut tries = Tries::within(Duration::from_secs(3600));
    for _ in 0..100 {
        let started = Instant::now();
        tries.again(server()).await.unwrap();
        assert!(started.elapsed() <= LONGEST + Duration::from_millis(1));
        let started = Instant::now();
        let after = Duration::from_secs(3);
        tries.again(Failure::new(Cause::SlowDown(Some(after)), "")).await.unwrap();
        assert!(started.elapsed() >= after);
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_not_help_is_not_tried() {
    let started = Instant::now();
    let mut tries = Tries::within(Duration::from_secs(3600));
    for cause in [Cause::NotFound, Cause::Denied, Cause::NoBucket, Cause::Changed, Cause::NoSpace] {
        tries.again(Failure::new(cause, "")).await.unwrap_err();
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    for _ in 0..WRONG_BODIES {
        tries.again(Failure::new(Cause::WrongBody, "")).await.unwrap();
    }
    tries.again(Failure::new(Cause::WrongBody, "")).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_its_time() {
    let never = std::future::pending::<object_store::Result<()>>();
    let failure = in_time(Duration::from_secs(10), never).await.unwrap_err();
    assert_eq!(failure.cause, Cause::TimedOut);
    assert!(failure.detail.contains("10 s"), "{}", failure.detail);
}
