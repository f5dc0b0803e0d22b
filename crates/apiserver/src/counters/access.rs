//! What is counted of authentication and authorization (upstream: `apiserver/pkg/endpoints/filters/metrics.go`).

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

use super::few::Few;

/// How often something ended how, and how long it took.
struct Results {
    attempts: &'static str,
    durations: &'static str,
    cells: Few<&'static str, (Counter, Histogram)>,
}

impl Results {
    fn new(attempts: &'static str, durations: &'static str) -> Self {
        Self { attempts, durations, cells: Few::default() }
    }

    fn note(&self, result: &'static str, took: Duration) {
        let (attempts, durations) = self.cells.get(result, || {
            (counter!(self.attempts, "result" => result), histogram!(self.durations, "result" => result))
        });
        attempts.increment(1);
        durations.record(took.as_secs_f64());
    }
}

/// Users that are counted by name; all others are counted together.
const USERS: [&str; 5] =
    ["admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default"];

/// The name under which a user is counted.
fn user(name: &str) -> &'static str {
    let known = USERS.iter().find(|known| **known == name);
    known.copied().unwrap_or(if name.contains('@') { "email_id" } else { "other" })
}

/// See the module.
pub(crate) struct Access {
    authentication: Results,
    authorization: Results,
    users: Few<&'static str, Counter>,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            authentication: Results::new("authentication_attempts", "authentication_duration_seconds"),
            authorization: Results::new("authorization_attempts_total", "authorization_duration_seconds"),
            users: Few::default(),
        }
    }
}

impl Access {
    /// It was found out who asks.
    pub fn authenticated(&self, name: &str, took: Duration) {
        self.authentication.note("success", took);
        let word = user(name);
        let count = || counter!("authenticated_user_requests", "username" => word);
        self.users.get(word, count).increment(1);
    }

    /// It was not. `is_fault`: somebody's credentials were not good, rather than nobody's there.
    pub fn not_authenticated(&self, is_fault: bool, took: Duration) {
        self.authentication.note(if is_fault { "error" } else { "failure" }, took);
    }

    /// It was decided whether somebody may do something; `result` as upstream calls it.
    pub fn decided(&self, result: &'static str, took: Duration) {
        self.authorization.note(result, took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_are_few() {
        assert_eq!(user("kubelet"), "kubelet");
        assert_eq!(user("system:serviceaccount:kube-system:default"), USERS[4]);
        assert_eq!(user("ann@example.org"), "email_id");
        assert_eq!(user("email_id"), "other");
        assert_eq!(user("system:node:a"), "other");
    }
}
