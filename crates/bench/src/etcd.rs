//! etcd's v3 API over gRPC: HTTP/2 frames by `h2`, the messages by hand. The
//! whole of a gRPC stack would cost the generator more than it gives here.

mod messages;

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use tokio::net::TcpStream;

use crate::request_error::{Effect, ErrorKind, RequestError};
use messages::{
    PutRequest, PutResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse,
    decode_frame, encode_frame,
};

const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Large enough that a window update is needed once in many thousand answers.
const WINDOW_BYTES: u32 = 8 << 20;

pub(crate) struct EtcdConnection {
    requests: SendRequest<Bytes>,
    put: Request<()>,
    range: Request<()>,
    status: Request<()>,
}

/// What a member says about itself.
#[derive(Debug)]
pub(crate) struct MemberStatus {
    pub(crate) leads: bool,
    pub(crate) term: u64,
}

impl std::fmt::Debug for EtcdConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdConnection").finish_non_exhaustive()
    }
}

impl EtcdConnection {
    pub(crate) async fn new(stream: TcpStream, node: SocketAddr) -> Result<Self, RequestError> {
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|_| RequestError::unsent(ErrorKind::Connect))?;
        // It ends when the last request handle is dropped or the peer goes;
        // the requests on it see why.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self {
            requests,
            put: request(node, "/etcdserverpb.KV/Put"),
            range: request(node, "/etcdserverpb.KV/Range"),
            status: request(node, "/etcdserverpb.Maintenance/Status"),
        })
    }

    /// Gives nothing where others give the key's version: etcd's answer to a
    /// put has none.
    pub(crate) async fn put(&mut self, key: &[u8], value: &Bytes) -> Result<Bytes, RequestError> {
        let message = PutRequest { key: Bytes::copy_from_slice(key), value: value.clone() };
        let call = self.put.clone();
        self.call::<PutResponse>(call, &message).await.map(|_| Bytes::new())
    }

    /// A linearizable read, as etcd's are unless asked otherwise.
    pub(crate) async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, RequestError> {
        let message = RangeRequest { key: Bytes::copy_from_slice(key) };
        let call = self.range.clone();
        let mut answer: RangeResponse = self.call(call, &message).await?;
        Ok(answer.kvs.pop().map(|pair| pair.value))
    }

    pub(crate) async fn status(&mut self) -> Result<MemberStatus, RequestError> {
        let call = self.status.clone();
        let answer: StatusResponse = self.call(call, &StatusRequest {}).await?;
        let header = answer.header.unwrap_or_default();
        let leads = answer.leader != 0 && answer.leader == header.member_id;
        Ok(MemberStatus { leads, term: header.raft_term })
    }

    async fn call<A: Message + Default>(
        &mut self,
        call: Request<()>,
        message: &impl Message,
    ) -> Result<A, RequestError> {
        let broken = |_| RequestError::unknown(ErrorKind::Broken);
        let unsent = |_| RequestError::unsent(ErrorKind::Broken);
        let mut requests = self.requests.clone().ready().await.map_err(unsent)?;
        let (response, mut sender) = requests.send_request(call, false).map_err(unsent)?;
        sender.send_data(encode_frame(message), true).map_err(broken)?;
        let response = response.await.map_err(broken)?;
        if response.status() != http::StatusCode::OK {
            return Err(RequestError::unknown(ErrorKind::Status(response.status().as_u16())));
        }
        check_status(response.headers())?;
        let mut receiver = response.into_body();
        let mut answer = BytesMut::new();
        while let Some(part) = receiver.data().await {
            let part = part.map_err(broken)?;
            if answer.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(RequestError::unknown(ErrorKind::Malformed));
            }
            receiver.flow_control().release_capacity(part.len()).map_err(broken)?;
            answer.extend_from_slice(&part);
        }
        let trailers = receiver.trailers().await.map_err(broken)?;
        check_status(&trailers.unwrap_or_default())?;
        decode_frame(&answer.freeze()).ok_or(RequestError::unknown(ErrorKind::Malformed))
    }
}

fn request(node: SocketAddr, path: &str) -> Request<()> {
    Request::post(format!("http://{node}{path}"))
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("the parts are fixed and valid")
}

/// A missing status is left to the caller, who then misses the message.
fn check_status(headers: &http::HeaderMap) -> Result<(), RequestError> {
    const INVALID_ARGUMENT: u32 = 3;
    const RESOURCE_EXHAUSTED: u32 = 8;
    let Some(status) = headers.get("grpc-status") else {
        return Ok(());
    };
    let code = status.to_str().ok().and_then(|text| text.parse().ok());
    match code {
        Some(0) => Ok(()),
        Some(code) => {
            let refused = matches!(code, INVALID_ARGUMENT | RESOURCE_EXHAUSTED);
            let effect = if refused { Effect::NotApplied } else { Effect::Unknown };
            Err(RequestError { kind: ErrorKind::Grpc(code), effect })
        }
        None => Err(RequestError::unknown(ErrorKind::Malformed)),
    }
}
