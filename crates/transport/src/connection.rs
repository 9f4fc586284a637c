//! What dialled and accepted connections have in common: socket options and the
//! frames of the handshake.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use synod_wire::handshake::HANDSHAKE_BYTES_MAX;
use synod_wire::{DecodeError, Handshake, frame, handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A peer that vanished without a word is found out in about this time even where
/// nothing is sent to it.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A handshake that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side closed the connection without a word.
    #[error("the connection was closed before the handshake")]
    Closed,
    /// What came was not understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A frame came that has no place here.
    #[error("an unexpected frame came instead of the handshake")]
    Unexpected,
}

/// Sends at once, and finds out about a silent end. `unacknowledged` bounds the time
/// for which bytes may be on their way without an acknowledgement of the kernel
/// there; without it TCP tries for about 15 minutes.
pub(crate) fn set_options(stream: &TcpStream, unacknowledged: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(unacknowledged)?;
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
    Ok(())
}

/// Writes one frame of the handshake.
pub(crate) async fn write_handshake(
    stream: &mut TcpStream,
    message: &Handshake,
) -> Result<(), HandshakeError> {
    let mut out = BytesMut::with_capacity(256);
    handshake::encode(message, &mut out);
    stream.write_all(&out).await?;
    Ok(())
}

/// Reads one frame of the handshake. What came behind it stays in `buffer`, which
/// takes no more than such a frame needs.
pub(crate) async fn read_handshake(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
) -> Result<Handshake, HandshakeError> {
    loop {
        if buffer.len() >= frame::HEADER_BYTES {
            let header = frame::Header::decode(buffer)?;
            let bytes = header.body_bytes();
            if bytes > HANDSHAKE_BYTES_MAX {
                let size = bytes as u64;
                return Err(DecodeError::TooLarge { what: "a handshake", size }.into());
            }
            if buffer.len() >= frame::HEADER_BYTES + bytes {
                buffer.advance(frame::HEADER_BYTES);
                return Ok(handshake::decode(header, buffer.split_to(bytes).freeze())?);
            }
        }
        buffer.reserve(512);
        if stream.read_buf(buffer).await? == 0 {
            return Err(HandshakeError::Closed);
        }
    }
}
