//! The metrics of an API server: names, texts and bounds are upstream's (kube-apiserver 1.37), where dashboards and alerts
//! know them from.

use env::{Buckets, Metric};

/// Durations of requests, in seconds (`apiserver/pkg/endpoints/metrics`).
const REQUESTS: Buckets = Buckets::Listed(&[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
]);
/// The same, from where objectives begin.
const OBJECTIVES: Buckets = Buckets::Listed(&[
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
]);
/// Of priority and fairness (`apiserver/pkg/util/flowcontrol/metrics`).
const TURNS: Buckets =
    Buckets::Listed(&[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0]);
/// Of admission (`apiserver/pkg/admission/metrics`).
const ADMISSION: Buckets = Buckets::Listed(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5]);
const WEBHOOKS: Buckets = Buckets::Listed(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0]);
const POLICIES: Buckets = Buckets::Listed(&[0.000_000_5, 0.001, 0.01, 0.1, 1.0]);
/// Of authentication, authorization, impersonation and conversion.
const DOUBLING: Buckets = Buckets::Growing { first: 0.001, factor: 2.0, count: 15 };
const CONVERSION: Buckets =
    Buckets::Listed(&[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0]);
/// Seconds that a certificate is still valid.
const VALIDITY: Buckets = Buckets::Listed(&[
    0.0,
    1800.0,
    3600.0,
    7200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
]);

/// The metrics that this crate records.
pub const METRICS: &[Metric] = &[
    // --- requests
    Metric::counter(
        "apiserver_request_total",
        "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_request_duration_seconds",
        "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        REQUESTS,
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_request_sli_duration_seconds",
        "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
        OBJECTIVES,
    )
    .labelled(),
    Metric::gauge(
        "apiserver_longrunning_requests",
        "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
    )
    .labelled(),
    Metric::histogram(
        "apiserver_response_sizes",
        "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
        (1000.0, 10.0, 7),
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_request_body_size_bytes",
        "[ALPHA] Apiserver request body size in bytes broken out by resource and verb.",
        Buckets::Even { first: 50_000.0, step: 100_000.0, count: 31 },
    )
    .labelled(),
    Metric::counter(
        "apiserver_request_terminations_total",
        "[ALPHA] Number of requests which apiserver terminated in self-defense.",
    )
    .labelled(),
    Metric::counter(
        "apiserver_request_aborts_total",
        "[ALPHA] Number of requests which apiserver aborted possibly due to a timeout, for each group, version, verb, resource, subresource and scope",
    )
    .labelled(),
    Metric::gauge(
        "apiserver_requested_deprecated_apis",
        "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
    )
    .labelled(),
    Metric::counter(
        "apiserver_tls_handshake_errors_total",
        "[ALPHA] Number of requests dropped with 'TLS handshake error from' error",
    ),
    // --- watches
    Metric::counter(
        "apiserver_watch_events_total",
        "[BETA] Number of events sent in watch clients",
    )
    .labelled(),
    Metric::histogram(
        "apiserver_watch_events_sizes",
        "[BETA] Watch event size distribution in bytes",
        (1024.0, 2.0, 8),
    )
    .labelled(),
    Metric::counter(
        "apiserver_init_events_total",
        "[ALPHA] Counter of init events processed in watch cache broken by resource type.",
    )
    .labelled(),
    // --- the store
    Metric::histogram_of(
        "etcd_request_duration_seconds",
        "[ALPHA] Etcd request latency in seconds for each operation and object type.",
        REQUESTS,
    )
    .labelled(),
    Metric::counter(
        "etcd_requests_total",
        "[ALPHA] Etcd request counts for each operation and object type.",
    )
    .labelled(),
    Metric::counter(
        "etcd_request_errors_total",
        "[ALPHA] Etcd failed request counts for each operation and object type.",
    )
    .labelled(),
    Metric::counter(
        "apiserver_storage_list_total",
        "[ALPHA] Number of LIST requests served from storage",
    )
    .labelled(),
    Metric::counter(
        "apiserver_storage_list_fetched_objects_total",
        "[ALPHA] Number of objects read from storage in the course of serving a LIST request",
    )
    .labelled(),
    Metric::counter(
        "apiserver_storage_list_evaluated_objects_total",
        "[ALPHA] Number of objects tested in the course of serving a LIST request from storage",
    )
    .labelled(),
    Metric::counter(
        "apiserver_storage_list_returned_objects_total",
        "[ALPHA] Number of objects returned for a LIST request from storage",
    )
    .labelled(),
    // --- who asks, and whether they may
    Metric::counter(
        "authenticated_user_requests",
        "[ALPHA] Counter of authenticated requests broken out by username.",
    )
    .labelled(),
    Metric::counter("authentication_attempts", "[ALPHA] Counter of authenticated attempts.").labelled(),
    Metric::histogram_of(
        "authentication_duration_seconds",
        "[ALPHA] Authentication duration in seconds broken out by result.",
        DOUBLING,
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_client_certificate_expiration_seconds",
        "[ALPHA] Distribution of the remaining lifetime on the certificate used to authenticate a request.",
        VALIDITY,
    ),
    Metric::counter(
        "authorization_attempts_total",
        "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
    )
    .labelled(),
    Metric::histogram_of(
        "authorization_duration_seconds",
        "[ALPHA] Authorization duration in seconds broken out by result.",
        DOUBLING,
    )
    .labelled(),
    Metric::counter(
        "apiserver_authorization_decisions_total",
        "[ALPHA] Total number of terminal decisions made by an authorizer split by authorizer type, name, and decision.",
    )
    .labelled(),
    Metric::counter(
        "apiserver_impersonation_attempts_total",
        "[ALPHA] Total number of impersonation attempts split by mode and decision.",
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_impersonation_attempts_duration_seconds",
        "[ALPHA] Latency of impersonation attempts in seconds split by mode and decision.",
        DOUBLING,
    )
    .labelled(),
    Metric::counter(
        "apiserver_impersonation_authorization_attempts_total",
        "[ALPHA] Total number of authorization checks made by the impersonation handler split by mode and decision.",
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_impersonation_authorization_attempts_duration_seconds",
        "[ALPHA] Latency of authorization checks made by the impersonation handler in seconds split by mode and decision.",
        DOUBLING,
    )
    .labelled(),
    // --- admission
    Metric::histogram_of(
        "apiserver_admission_step_admission_duration_seconds",
        "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
        ADMISSION,
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_admission_controller_admission_duration_seconds",
        "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        ADMISSION,
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_admission_webhook_admission_duration_seconds",
        "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        WEBHOOKS,
    )
    .labelled(),
    Metric::counter(
        "apiserver_admission_webhook_rejection_count",
        "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    )
    .labelled(),
    Metric::counter(
        "apiserver_admission_webhook_fail_open_count",
        "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
    )
    .labelled(),
    Metric::counter(
        "apiserver_admission_webhook_request_total",
        "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
    )
    .labelled(),
    Metric::counter(
        "apiserver_validating_admission_policy_check_total",
        "[BETA] Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.",
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_validating_admission_policy_check_duration_seconds",
        "[BETA] Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.",
        POLICIES,
    )
    .labelled(),
    Metric::counter(
        "apiserver_mutating_admission_policy_check_total",
        "[ALPHA] Mutation admission policy check total, labeled by policy and further identified by binding.",
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_mutating_admission_policy_check_duration_seconds",
        "[ALPHA] Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
        POLICIES,
    )
    .labelled(),
    // --- priority and fairness
    Metric::counter(
        "apiserver_flowcontrol_rejected_requests_total",
        "[BETA] Number of requests rejected by API Priority and Fairness subsystem",
    )
    .labelled(),
    Metric::counter(
        "apiserver_flowcontrol_dispatched_requests_total",
        "[BETA] Number of requests executed by API Priority and Fairness subsystem",
    )
    .labelled(),
    Metric::gauge(
        "apiserver_flowcontrol_current_inqueue_requests",
        "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem",
    )
    .labelled(),
    Metric::gauge(
        "apiserver_flowcontrol_current_inqueue_seats",
        "[ALPHA] Number of seats currently pending in queues of the API Priority and Fairness subsystem",
    )
    .labelled(),
    Metric::gauge(
        "apiserver_flowcontrol_current_executing_requests",
        "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
    )
    .labelled(),
    Metric::gauge(
        "apiserver_flowcontrol_current_executing_seats",
        "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_flowcontrol_request_wait_duration_seconds",
        "[BETA] Length of time a request spent waiting in its queue",
        TURNS,
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_flowcontrol_request_execution_seconds",
        "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
        TURNS,
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_flowcontrol_work_estimated_seats",
        "[ALPHA] Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
        Buckets::Listed(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0]),
    )
    .labelled(),
    Metric::gauge(
        "apiserver_flowcontrol_nominal_limit_seats",
        "[BETA] Nominal number of execution seats configured for each priority level",
    )
    .labelled(),
    Metric::gauge(
        "apiserver_flowcontrol_lower_limit_seats",
        "[ALPHA] Configured lower bound on number of execution seats available to each priority level",
    )
    .labelled(),
    Metric::gauge(
        "apiserver_flowcontrol_upper_limit_seats",
        "[ALPHA] Configured upper bound on number of execution seats available to each priority level",
    )
    .labelled(),
    // --- the audit log
    Metric::counter(
        "apiserver_audit_event_total",
        "[ALPHA] Counter of audit events generated and sent to the audit backend.",
    ),
    Metric::counter(
        "apiserver_audit_error_total",
        "[ALPHA] Counter of audit events that failed to be audited properly. Plugin identifies the plugin affected by the error.",
    )
    .labelled(),
    Metric::counter(
        "apiserver_audit_level_total",
        "[ALPHA] Counter of policy levels for audit events (1 per request).",
    )
    .labelled(),
    Metric::counter(
        "apiserver_audit_requests_rejected_total",
        "[ALPHA] Counter of apiserver requests rejected due to an error in audit logging backend.",
    ),
    // --- encryption at rest by a plugin
    Metric::histogram(
        "apiserver_envelope_encryption_kms_operations_latency_seconds",
        "[ALPHA] KMS operation duration with gRPC error code status total.",
        (0.0001, 2.0, 20),
    )
    .labelled(),
    Metric::counter(
        "apiserver_envelope_encryption_invalid_key_id_from_status_total",
        "[ALPHA] Number of times an invalid keyID is returned by the Status RPC call split by error.",
    )
    .labelled(),
    Metric::gauge(
        "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
        "[ALPHA] The last time in seconds when a keyID was returned by the Status RPC call.",
    )
    .labelled(),
    // --- definitions
    Metric::histogram_of(
        "apiserver_crd_conversion_webhook_duration_seconds",
        "[ALPHA] CRD webhook conversion duration in seconds",
        DOUBLING,
    )
    .labelled(),
    Metric::counter(
        "apiserver_conversion_webhook_request_total",
        "[ALPHA] Counter for conversion webhook requests with success/failure and failure error type",
    )
    .labelled(),
    Metric::histogram_of(
        "apiserver_conversion_webhook_duration_seconds",
        "[ALPHA] Conversion webhook request latency",
        CONVERSION,
    )
    .labelled(),
];
