//! `authorizer` of an expression: asks what the user of the request, or a service account, may do (upstream:
//! `apiserver/pkg/cel/library/authz.go`).

use std::sync::Arc;

use kube_cel::cel::extractors::This;
use kube_cel::cel::objects::Opaque;
use kube_cel::cel::{Context, ExecutionError, Value as Cel};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// A path that is no resource; empty for a resource.
    pub path: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub verb: String,
    /// Which objects are meant, as the parameters `fieldSelector` and `labelSelector` of a list say it; what cannot be
    /// read counts as all of them.
    pub fields: String,
    pub labels: String,
    /// `(namespace, name)` of the account that is asked about instead of the user.
    pub account: Option<(String, String)>,
}

/// Who answers.
pub trait Authorize: Send + Sync {
    fn allows(&self, question: &Question) -> bool;
}

/// A check under construction, and its answer when it was asked.
#[derive(Clone)]
struct Check {
    by: Arc<dyn Authorize>,
    question: Question,
    answer: Option<bool>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.question.fmt(f)
    }
}

impl PartialEq for Check {
    fn eq(&self, other: &Self) -> bool {
        self.question == other.question && self.answer == other.answer
    }
}

impl Eq for Check {}

impl Opaque for Check {
    fn runtime_type_name(&self) -> &str {
        match self.answer {
            Some(_) => "kubernetes.authorization.Decision",
            None => "kubernetes.authorization.Authorizer",
        }
    }
}

fn value(check: Check) -> Cel {
    Cel::Opaque(Arc::new(check))
}

/// `authorizer` and `authorizer.requestResource`.
pub(super) fn values(by: &Arc<dyn Authorize>, question: &Question) -> (Cel, Cel) {
    let of = |question| value(Check { by: by.clone(), question, answer: None });
    (of(Question::default()), of(question.clone()))
}

fn read(this: &Cel) -> Result<Check, ExecutionError> {
    match this {
        Cel::Opaque(value) => value.downcast_ref::<Check>().cloned().ok_or(ExecutionError::NoSuchOverload),
        _ => Err(ExecutionError::NoSuchOverload),
    }
}

/// A step of a check that says one thing more.
fn with(this: &Cel, text: &Arc<String>, set: fn(&mut Question, String)) -> Result<Cel, ExecutionError> {
    let mut check = read(this)?;
    set(&mut check.question, text.to_string());
    Ok(value(check))
}

pub(super) fn register(context: &mut Context<'_>) {
    type Answer = Result<Cel, ExecutionError>;
    context.add_function("path", |This(this): This<Cel>, text: Arc<String>| -> Answer {
        with(&this, &text, |q, t| q.path = t)
    });
    context.add_function("group", |This(this): This<Cel>, text: Arc<String>| -> Answer {
        with(&this, &text, |q, t| q.group = t)
    });
    context.add_function("resource", |This(this): This<Cel>, text: Arc<String>| -> Answer {
        with(&this, &text, |q, t| q.resource = t)
    });
    context.add_function("subresource", |This(this): This<Cel>, text: Arc<String>| -> Answer {
        with(&this, &text, |q, t| q.subresource = t)
    });
    context.add_function("namespace", |This(this): This<Cel>, text: Arc<String>| -> Answer {
        with(&this, &text, |q, t| q.namespace = t)
    });
    context.add_function("name", |This(this): This<Cel>, text: Arc<String>| -> Answer {
        with(&this, &text, |q, t| q.name = t)
    });
    context.add_function("fieldSelector", |This(this): This<Cel>, text: Arc<String>| -> Answer {
        with(&this, &text, |q, t| q.fields = t)
    });
    context.add_function("labelSelector", |This(this): This<Cel>, text: Arc<String>| -> Answer {
        with(&this, &text, |q, t| q.labels = t)
    });
    context.add_function(
        "serviceAccount",
        |This(this): This<Cel>, namespace: Arc<String>, name: Arc<String>| -> Answer {
            let mut check = read(&this)?;
            check.question.account = Some((namespace.to_string(), name.to_string()));
            Ok(value(check))
        },
    );
    context.add_function("check", |This(this): This<Cel>, verb: Arc<String>| -> Answer {
        let mut check = read(&this)?;
        check.question.verb = verb.to_string();
        check.answer = Some(check.by.allows(&check.question));
        Ok(value(check))
    });
    context.add_function("allowed", |This(this): This<Cel>| -> Answer {
        Ok(Cel::Bool(read(&this)?.answer == Some(true)))
    });
    context.add_function("reason", |This(this): This<Cel>| -> Answer {
        read(&this).map(|_| Cel::String(Arc::default()))
    });
    context
        .add_function("errored", |This(this): This<Cel>| -> Answer { read(&this).map(|_| Cel::Bool(false)) });
    context.add_function("error", |This(this): This<Cel>| -> Answer {
        read(&this).map(|_| Cel::String(Arc::default()))
    });
}
