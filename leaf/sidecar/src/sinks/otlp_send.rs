//! `otlp+http://` and `otlp+grpc://`: sends what [`super::otlp`] made.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use prost::Message;
use reqwest::Method;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::http::Poster;
use super::{Again, Sent};
use crate::batch::Payload;
use crate::config::{ConfigError, SinkConfig};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A receiver of OpenTelemetry logs.
pub struct Otlp {
    way: Way,
}

enum Way {
    Http(Poster),
    Grpc(LogsServiceClient<Channel>),
}

impl Otlp {
    /// Over HTTP, as protobuf.
    pub fn http(config: &SinkConfig, url: &str) -> Result<Self, ConfigError> {
        Ok(Self { way: Way::Http(Poster::new(&[url.to_owned()], config.gzip)?) })
    }

    /// Over gRPC. Connects when there is something to send.
    pub fn grpc(config: &SinkConfig, url: &str) -> Result<Self, ConfigError> {
        let endpoint =
            Endpoint::from_shared(url.to_owned()).map_err(|error| ConfigError::new(url, error.to_string()))?;
        let endpoint = endpoint.timeout(TIMEOUT).connect_timeout(Duration::from_secs(5)).tcp_nodelay(true);
        if config.gzip == Some(true) {
            return Err(ConfigError::new(url, "gzip is for HTTP"));
        }
        Ok(Self { way: Way::Grpc(LogsServiceClient::new(endpoint.connect_lazy())) })
    }

    /// Sends a payload. Receivers do not know records, so one that is sent again is there twice.
    pub async fn send(&mut self, payload: &Payload) -> Result<Sent, Again> {
        let answer = match &mut self.way {
            Way::Http(poster) => over_http(poster, payload).await?,
            Way::Grpc(client) => over_grpc(client, payload).await?,
        };
        let Some(partial) = answer.partial_success.filter(|partial| partial.rejected_log_records > 0) else {
            return Ok(Sent::default());
        };
        tracing::warn!(rejected = partial.rejected_log_records, error = partial.error_message, "records were refused");
        Ok(Sent { rejected: u64::try_from(partial.rejected_log_records).unwrap_or(0), ..Sent::default() })
    }
}

async fn over_http(poster: &mut Poster, payload: &Payload) -> Result<ExportLogsServiceResponse, Again> {
    let body = payload.body.clone();
    let reply = poster.send(Method::POST, &[], &[], "application/x-protobuf", body).await.map_err(Again::whole)?;
    if reply.status.is_success() {
        // An answer that cannot be read is a success all the same.
        return Ok(ExportLogsServiceResponse::decode(reply.body).unwrap_or_default());
    }
    if matches!(reply.status.as_u16(), 400 | 413 | 415) {
        // The specification: not to be sent again.
        tracing::warn!(answer = reply.describe(), records = payload.about.records, "records were refused");
        return Ok(refused(payload, reply.describe()));
    }
    Err(Again { retry_after: reply.retry_after, ..Again::whole(reply.describe()) })
}

async fn over_grpc(
    client: &mut LogsServiceClient<Channel>,
    payload: &Payload,
) -> Result<ExportLogsServiceResponse, Again> {
    let request = ExportLogsServiceRequest::decode(payload.body.clone()).map_err(Again::whole)?;
    match client.export(request).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) if matches!(status.code(), Code::InvalidArgument) => Ok(refused(payload, status.to_string())),
        Err(status) => Err(Again::whole(status)),
    }
}

fn refused(payload: &Payload, reason: String) -> ExportLogsServiceResponse {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;
    let rejected_log_records = i64::try_from(payload.about.records).unwrap_or(i64::MAX);
    ExportLogsServiceResponse {
        partial_success: Some(ExportLogsPartialSuccess { rejected_log_records, error_message: reason }),
    }
}
