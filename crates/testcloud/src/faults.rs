//! What goes wrong, and when.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::Operation;

/// What goes wrong in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Answered with an error of this HTTP status and code in the body.
    Error {
        /// The HTTP status.
        status: u16,
        /// The code, in words of S3: `SlowDown`, `AccessDenied`.
        code: String,
    },
    /// The connection is reset instead of an answer.
    Reset,
    /// No answer until [`Cloud::release`](crate::Cloud::release); then as if nothing were wrong.
    Stall,
    /// The body ends in the middle and the connection with it.
    Cut,
    /// The body is half as long, and its length says so.
    Short,
    /// One bit in the middle of the body is flipped.
    Flip,
    /// Status 200, with an error instead of what was asked for.
    ErrorBody,
}

impl Fault {
    fn error(status: u16, code: &str) -> Self {
        Self::Error { status, code: code.to_owned() }
    }

    /// 503, as S3 answers when requests come too fast.
    pub fn slow_down() -> Self {
        Self::error(503, "SlowDown")
    }

    /// 500.
    pub fn internal() -> Self {
        Self::error(500, "InternalError")
    }

    /// 409, as S3 answers to one of two conditional writes at the same time.
    pub fn conflict() -> Self {
        Self::error(409, "ConditionalRequestConflict")
    }

    /// 429, as GCS answers to more than one write per second of one object.
    pub fn too_many() -> Self {
        Self::error(429, "TooManyRequests")
    }

    /// 403.
    pub fn denied() -> Self {
        Self::error(403, "AccessDenied")
    }

    /// 400, as S3 answers when temporary credentials are past their time.
    pub fn expired() -> Self {
        Self::error(400, "ExpiredToken")
    }

    /// 403, as S3 answers to a signature from the past or the future.
    pub fn skewed() -> Self {
        Self::error(403, "RequestTimeTooSkewed")
    }
}

/// Which of the requests that a rule is about go wrong, counted from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// All.
    #[default]
    Always,
    /// One.
    Nth(u64),
    /// So many, from the first.
    First(u64),
    /// This one and all after it.
    From(u64),
    /// A part of them.
    Chance {
        /// Of a hundred requests.
        percent: u8,
        /// The same seed and order of requests give the same faults.
        seed: u64,
    },
}

/// A fault and the requests that it befalls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    fault: Fault,
    #[serde(default)]
    operation: Option<Operation>,
    #[serde(default)]
    key: String,
    #[serde(default)]
    when: When,
    #[serde(default)]
    after: bool,
}

impl Rule {
    /// Befalls every request, before its effect.
    pub const fn new(fault: Fault) -> Self {
        Self { fault, operation: None, key: String::new(), when: When::Always, after: false }
    }

    /// Only requests of this operation.
    #[must_use]
    pub fn on(self, operation: Operation) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Only requests whose key contains `part`: `packs/`, or a whole key.
    #[must_use]
    pub fn at(self, part: &str) -> Self {
        Self { key: part.to_owned(), ..self }
    }

    /// Only some of them.
    #[must_use]
    pub fn when(self, when: When) -> Self {
        Self { when, ..self }
    }

    /// After the request had its effect: what was written is there, but its writer is not told.
    #[must_use]
    pub fn after(self) -> Self {
        Self { after: true, ..self }
    }

    fn is_about(&self, operation: Operation, key: &str) -> bool {
        self.operation.is_none_or(|of| of == operation) && key.contains(&self.key)
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Armed>>);

#[derive(Debug)]
struct Armed {
    rule: Rule,
    seen: u64,
    random: fastrand::Rng,
}

/// A fault that befalls a request.
#[derive(Clone, Debug)]
pub(crate) struct Befalls {
    pub(crate) fault: Fault,
    pub(crate) after: bool,
}

impl Faults {
    pub(crate) fn add(&self, rule: Rule) {
        let seed = if let When::Chance { seed, .. } = rule.when { seed } else { 0 };
        self.0.lock().push(Armed { rule, seen: 0, random: fastrand::Rng::with_seed(seed) });
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// What befalls this request: by the first rule that strikes. Every rule that is about it counts it.
    pub(crate) fn strike(&self, operation: Operation, key: &str) -> Option<Befalls> {
        let mut first = None;
        for armed in self.0.lock().iter_mut().filter(|armed| armed.rule.is_about(operation, key)) {
            armed.seen += 1;
            let strikes = match armed.rule.when {
                When::Always => true,
                When::Nth(n) => armed.seen == n,
                When::First(n) => armed.seen <= n,
                When::From(n) => armed.seen >= n,
                When::Chance { percent, .. } => armed.random.u8(0..100) < percent,
            };
            if strikes && first.is_none() {
                first = Some(Befalls { fault: armed.rule.fault.clone(), after: armed.rule.after });
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of six puts, counted from 1, a rule strikes.
    fn struck(when: When) -> Vec<u64> {
        let faults = Faults::default();
        faults.add(Rule::new(Fault::Reset).on(Operation::Put).when(when));
        (1..=6).filter(|_| faults.strike(Operation::Put, "a").is_some()).collect()
    }

    #[test]
    fn rules_strike_when_they_say() {
        assert_eq!(struck(When::Always), [1, 2, 3, 4, 5, 6]);
        assert_eq!(struck(When::Nth(2)), [2]);
        assert_eq!(struck(When::First(2)), [1, 2]);
        assert_eq!(struck(When::From(5)), [5, 6]);
        assert_eq!(struck(When::Chance { percent: 0, seed: 1 }), [0; 0]);
        assert_eq!(struck(When::Chance { percent: 100, seed: 1 }), [1, 2, 3, 4, 5, 6]);
        let some = When::Chance { percent: 50, seed: 7 };
        assert_eq!(struck(some.clone()), struck(some));
    }

    #[test]
    fn rules_are_about_an_operation_and_a_part_of_the_key() {
        let faults = Faults::default();
        faults.add(Rule::new(Fault::Cut).on(Operation::Get).at("packs/").after());
        assert!(faults.strike(Operation::Put, "packs/ab/1").is_none());
        assert!(faults.strike(Operation::Get, "maps/1").is_none());
        let befalls = faults.strike(Operation::Get, "vm/packs/ab/1").unwrap();
        assert_eq!((befalls.fault, befalls.after), (Fault::Cut, true));
        faults.clear();
        assert!(faults.strike(Operation::Get, "packs/ab/1").is_none());
    }

    #[test]
    fn rules_are_read_from_json() {
        let text = r#"{"fault": {"error": {"status": 503, "code": "SlowDown"}}, "operation": "put",
                       "key": "packs/", "when": {"first": 3}, "after": true}"#;
        let rule: Rule = serde_json::from_str(text).unwrap();
        assert_eq!(
            rule,
            Rule::new(Fault::slow_down()).on(Operation::Put).at("packs/").when(When::First(3)).after()
        );
        assert_eq!(serde_json::from_str::<Rule>(r#"{"fault": "reset"}"#).unwrap(), Rule::new(Fault::Reset));
    }
}
