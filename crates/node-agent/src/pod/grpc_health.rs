//! One question to a container's gRPC health service (`grpc.health.v1.Health`), for probes. Driver.

use std::time::Duration;

use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Whether `service` (empty: the server as a whole) says that it serves.
///
/// # Errors
/// Upstream's texts: no connection within `timeout`, no such service, or one that does not serve.
pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let address = format!("{host}:{port}");
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
    let endpoint = endpoint.user_agent("kube-probe/1.37").map_err(|error| error.to_string())?;
    let connected = endpoint.connect_timeout(timeout).connect().await;
    let channel = connected.map_err(|error| {
        format!("timeout: failed to connect service \"{address}\" within {}s: {error}", timeout.as_secs())
    })?;
    let request = HealthCheckRequest { service: service.to_owned() };
    match HealthClient::new(channel).check(request).await {
        Ok(answer) => match ServingStatus::try_from(answer.into_inner().status) {
            Ok(ServingStatus::Serving) => Ok(()),
            status => {
                let name = status.unwrap_or(ServingStatus::Unknown).as_str_name();
                Err(format!("service unhealthy (responded with \"{name}\")"))
            }
        },
        Err(status) if status.code() == Code::Unimplemented => {
            let text = "this server does not implement the grpc health protocol (grpc.health.v1.Health)";
            Err(format!("{text}: {}", status.message()))
        }
        Err(status) => Err(format!("health rpc probe failed: {}", status.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_is_well_when_it_says_so() {
        let (reporter, service) = tonic_health::server::health_reporter();
        reporter.set_service_status("good", tonic_health::ServingStatus::Serving).await;
        reporter.set_service_status("bad", tonic_health::ServingStatus::NotServing).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        let second = Duration::from_secs(1);
        let ask = async |name| check("127.0.0.1", port, name, second).await;
        let questions = async {
            assert_eq!(ask("good").await, Ok(()));
            let bad = "service unhealthy (responded with \"NOT_SERVING\")".to_owned();
            assert_eq!(ask("bad").await, Err(bad));
            assert!(ask("none").await.is_err_and(|text| text.starts_with("health rpc probe failed")));
        };
        tokio::select! {
            () = questions => {}
            ended = server => panic!("the server ended: {ended:?}"),
        }
        let refused = check("127.0.0.1", 1, "", second).await;
        assert!(refused.is_err_and(|text| text.contains("failed to connect service \"127.0.0.1:1\"")));
    }
}
