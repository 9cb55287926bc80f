//! Why a write did not come through, and what that means for the pass.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Why a plan was not carried out whole. Ordered: the last is the worst.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Failure {
    /// The pass has taken its time; there is more to do.
    #[error("the pass took too long and goes on with the next")]
    OutOfTime,
    /// The spec changed under the plan.
    #[error("the ModelServing changed meanwhile")]
    Outdated,
    /// It may succeed soon.
    #[error("{0}")]
    Soon(String),
    /// The API server refuses it, and will until somebody changes something.
    #[error("{0}")]
    Refused(String),
    /// Somebody else's object has the name.
    #[error("{what} belongs to {owner}: delete or rename that object")]
    NameTaken {
        /// Kind and name.
        what: String,
        /// Whose it is.
        owner: String,
    },
}

impl Failure {
    /// The worst of many.
    pub(super) fn worst(failures: Vec<Self>) -> Option<Self> {
        failures.into_iter().max()
    }
}

/// What the API server answered instead of a success.
#[derive(Debug)]
pub(super) enum Refusal {
    /// An error.
    Kube(kube::Error),
    /// Nothing.
    NoAnswer,
}

impl Refusal {
    /// The metric label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::NoAnswer => "timeout",
            Self::Kube(kube::Error::Api(status)) => match (status.code, status.reason.as_str()) {
                (409, "AlreadyExists") => "exists",
                (409, _) => "conflict",
                (404 | 410, _) => "gone",
                (401 | 403, _) => "forbidden",
                (400 | 422, _) => "invalid",
                (429, _) => "throttled",
                _ => "error",
            },
            Self::Kube(_) => "error",
        }
    }

    pub(super) fn already_exists(&self) -> bool {
        self.label() == "exists"
    }

    pub(super) fn is_gone(&self) -> bool {
        self.label() == "gone"
    }

    /// A precondition does not hold: the object has another UID, or was changed.
    pub(super) fn is_conflict(&self) -> bool {
        self.label() == "conflict"
    }

    /// What that means for the pass that wrote `what`.
    pub(super) fn failure(&self, what: &str) -> Failure {
        let said = match self {
            Self::NoAnswer => format!("{what}: the API server does not answer"),
            Self::Kube(kube::Error::Api(status)) => format!("{what}: {}", status.message),
            Self::Kube(error) => format!("{what}: {error}"),
        };
        match self.label() {
            "forbidden" | "invalid" | "gone" => Failure::Refused(said),
            _ => Failure::Soon(said),
        }
    }
}

/// Whose an object is, for a person.
pub(super) fn owner(meta: &ObjectMeta) -> String {
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    owner.map_or_else(|| "nobody we know".to_owned(), |owner| format!("{} {}", owner.kind, owner.name))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refusal(code: u16, reason: &str) -> Refusal {
        let status = Status { code, reason: reason.into(), message: "no".into(), ..Status::default() };
        Refusal::Kube(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn what_a_person_must_mend_waits_longer_than_what_mends_itself() {
        for (code, reason) in [(403, "Forbidden"), (422, "Invalid"), (404, "NotFound")] {
            assert_eq!(refusal(code, reason).failure("Pod a"), Failure::Refused("Pod a: no".to_owned()));
        }
        for (code, reason) in [(409, "Conflict"), (429, "TooManyRequests"), (500, "InternalError")] {
            assert_eq!(refusal(code, reason).failure("Pod a"), Failure::Soon("Pod a: no".to_owned()));
        }
        assert!(matches!(Refusal::NoAnswer.failure("Pod a"), Failure::Soon(_)));
    }

    #[test]
    fn a_name_that_is_taken_is_told_from_a_precondition_that_fails() {
        assert!(refusal(409, "AlreadyExists").already_exists());
        assert!(refusal(409, "Conflict").is_conflict());
    }

    #[test]
    fn the_worst_failure_is_the_one_that_is_told() {
        let taken = Failure::NameTaken { what: "Pod a".into(), owner: "nobody we know".into() };
        let failures = vec![Failure::OutOfTime, taken.clone(), Failure::Soon("x".into())];
        assert_eq!(Failure::worst(failures), Some(taken));
        assert_eq!(Failure::worst(Vec::new()), None);
    }
}
