//! Steering a cloud by HTTP, for what runs in another process:
//!
//! ```text
//! GET    /_cloud/stats      what was asked
//! DELETE /_cloud/stats      count from 0
//! POST   /_cloud/faults     add a rule, as JSON: {"fault": "reset", "operation": "put", "when": {"nth": 3}}
//! DELETE /_cloud/faults     remove all rules, let go of what is stalled
//! PUT    /_cloud/settings   change what is given: {"latency_ms": 20, "bandwidth": 200000000,
//!                           "conditions": "racy", "access_key": "id"}
//! ```

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Method, Response, StatusCode};
use serde::Deserialize;

use crate::{Conditions, Rule, body::Body, cloud::State};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Change {
    latency_ms: Option<u64>,
    bandwidth: Option<u64>,
    conditions: Option<Conditions>,
    /// Empty: none is asked for.
    access_key: Option<String>,
}

impl Change {
    fn make(self, state: &State) {
        if let Some(latency) = self.latency_ms {
            *state.latency.lock() = Duration::from_millis(latency);
        }
        if let Some(bandwidth) = self.bandwidth {
            state.up.set_rate(bandwidth);
            state.down.set_rate(bandwidth);
        }
        if let Some(conditions) = self.conditions {
            state.buckets.set_conditions(conditions);
        }
        if let Some(key) = self.access_key {
            *state.access_key.lock() = (!key.is_empty()).then_some(key);
        }
    }
}

/// Answers what is no request on an object.
pub(crate) fn answer(state: &Arc<State>, method: &Method, path: &str, body: &[u8]) -> Response<Body> {
    let done = match (method.as_str(), path) {
        ("GET", "/_cloud/stats") => serde_json::to_vec(&state.counters.read()),
        ("DELETE", "/_cloud/stats") => {
            state.counters.reset();
            Ok(Vec::new())
        }
        ("POST", "/_cloud/faults") => serde_json::from_slice::<Rule>(body).map(|rule| {
            state.faults.add(rule);
            Vec::new()
        }),
        ("DELETE", "/_cloud/faults") => {
            state.faults.clear();
            state.stalls.release();
            Ok(Vec::new())
        }
        ("PUT", "/_cloud/settings") => serde_json::from_slice::<Change>(body).map(|change| {
            change.make(state);
            Vec::new()
        }),
        _ => return respond(StatusCode::NOT_FOUND, "no such path".into()),
    };
    match done {
        Ok(body) => respond(StatusCode::OK, body.into()),
        Err(error) => respond(StatusCode::BAD_REQUEST, error.to_string().into()),
    }
}

fn respond(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::plain(body));
    *response.status_mut() = status;
    response
}
