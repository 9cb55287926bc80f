//! What is told: by object for a person, as data for a program.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::checks::{Found, Severity};

/// Checks that are named where several were not done for one reason.
const NAMED: usize = 3;

/// All that was found, and what could not be looked for.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
    /// The checks that were done.
    pub(super) done: Vec<&'static str>,
    pub(super) not_done: Vec<NotDone>,
}

/// A mistake and its remedy.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) severity: Severity,
    pub(super) object: String,
    pub(super) problem: String,
    pub(super) fix: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<Value>,
}

/// A check that was not done.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct NotDone {
    pub(super) check: &'static str,
    pub(super) why: String,
}

impl Found {
    /// As the finding of a check.
    pub(super) fn of(self, check: &'static str) -> Finding {
        let Self { severity, object, problem, fix, manifest } = self;
        Finding { check, severity, object, problem, fix, manifest }
    }
}

impl Report {
    pub(super) fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Error).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut objects: Vec<&str> = Vec::new();
        for finding in &self.findings {
            if !objects.contains(&finding.object.as_str()) {
                objects.push(&finding.object);
            }
        }
        for object in objects {
            writeln!(formatter, "{object}")?;
            for finding in self.findings.iter().filter(|finding| finding.object == object) {
                write!(formatter, "{finding}")?;
            }
            writeln!(formatter)?;
        }
        let errors = self.errors();
        let warnings = self.findings.len() - errors;
        let checks = self.done.len();
        match (errors, warnings) {
            (0, 0) => write!(formatter, "{checks} checks found nothing")?,
            _ => write!(formatter, "{checks} checks found {}", counted(errors, warnings))?,
        }
        if self.not_done.is_empty() {
            return writeln!(formatter, ".");
        }
        writeln!(formatter, "; {} not done:", self.not_done.len())?;
        let mut reasons: Vec<&str> = Vec::new();
        for not_done in &self.not_done {
            if !reasons.contains(&not_done.why.as_str()) {
                reasons.push(&not_done.why);
            }
        }
        for reason in reasons {
            let checks = self.not_done.iter().filter(|it| it.why == reason).map(|it| it.check);
            let checks: Vec<&str> = checks.collect();
            match checks.len() {
                1..=NAMED => writeln!(formatter, "  {reason}: {}", checks.join(", "))?,
                many => writeln!(formatter, "  {reason}: {many} checks")?,
            }
        }
        Ok(())
    }
}

fn counted(errors: usize, warnings: usize) -> String {
    let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, warnings) => many(warnings, "warning"),
        (errors, 0) => many(errors, "error"),
        (errors, warnings) => format!("{} and {}", many(errors, "error"), many(warnings, "warning")),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(formatter, "  {severity} {}: {}", self.check, self.problem)?;
        writeln!(formatter, "    fix: {}", self.fix)?;
        let Some(manifest) = &self.manifest else { return Ok(()) };
        let whole = manifest.get("kind").is_some();
        writeln!(formatter, "    {}:", if whole { "apply" } else { "write" })?;
        for line in serde_saphyr::to_string(manifest).map_err(|_| fmt::Error)?.lines() {
            writeln!(formatter, "      {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finding(severity: Severity, object: &str) -> Finding {
        Finding {
            check: "a-check",
            severity,
            object: object.to_owned(),
            problem: "it is wrong".to_owned(),
            fix: "right it".to_owned(),
            manifest: None,
        }
    }

    #[test]
    fn findings_are_told_by_object_and_what_was_not_done_by_reason() {
        let mut report = Report {
            findings: vec![
                finding(Severity::Error, "Pod a/b"),
                finding(Severity::Warning, "Pod c/d"),
                finding(Severity::Warning, "Pod a/b"),
            ],
            done: vec!["a-check"],
            not_done: vec![],
        };
        report.findings[0].manifest = Some(json!({"kind": "Pod", "metadata": {"name": "b"}}));
        for (check, why) in [("one", "nothing was given"), ("two", "nothing was given")]
            .into_iter()
            .chain(["a", "b", "c", "d"].map(|check| (check, "nobody was asked")))
        {
            report.not_done.push(NotDone { check, why: why.to_owned() });
        }
        assert_eq!(
            report.to_string(),
            "Pod a/b\n  error a-check: it is wrong\n    fix: right it\n    apply:\n      kind: Pod\n      metadata:\n        \
             name: b\n  warning a-check: it is wrong\n    fix: right it\n\nPod c/d\n  warning a-check: it is wrong\n    \
             fix: right it\n\n1 checks found 1 error and 2 warnings; 6 not done:\n  nothing was given: one, two\n  nobody was asked: 4 checks\n"
        );
        assert_eq!(report.errors(), 1);
    }

    #[test]
    fn silence_is_said() {
        let report = Report { done: vec!["one", "two"], ..Report::default() };
        assert_eq!(report.to_string(), "2 checks found nothing.\n");
    }
}
