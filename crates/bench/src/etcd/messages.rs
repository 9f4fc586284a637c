//! The few messages of etcd's v3 API that the driver needs, with the field
//! numbers of its published interface, and gRPC's five-byte frame.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// The largest message that is accepted from a server.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const FRAME_HEADER_BYTES: usize = 5;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    pub(crate) member_id: u64,
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
    #[prost(uint64, tag = "4")]
    pub(crate) raft_term: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PutResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pub(crate) kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<ResponseHeader>,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(uint64, tag = "4")]
    pub(crate) leader: u64,
}

/// A message in its frame: uncompressed, then its length, then its bytes.
pub(crate) fn encode_frame(message: &impl Message) -> Bytes {
    let message_bytes = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEADER_BYTES + message_bytes);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message_bytes).expect("requests are far below 4 GiB"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// The message in a complete frame; none when the bytes are anything else.
pub(crate) fn decode_frame<M: Message + Default>(frame: &Bytes) -> Option<M> {
    let header = frame.get(..FRAME_HEADER_BYTES)?;
    let message_bytes = u32::from_be_bytes(header[1..].try_into().ok()?) as usize;
    let uncompressed = header[0] == 0;
    let whole = frame.len() == FRAME_HEADER_BYTES + message_bytes;
    if !uncompressed || !whole || message_bytes > MESSAGE_BYTES_MAX {
        return None;
    }
    M::decode(frame.slice(FRAME_HEADER_BYTES..)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_put_has_the_bytes_that_the_interface_prescribes() {
        let put = PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"vw") };
        let frame = encode_frame(&put);
        assert_eq!(&frame[..], b"\0\0\0\0\x07\x0a\x01k\x12\x02vw");
    }

    #[test]
    fn a_recorded_status_answer_is_understood() {
        // Header {member_id: 5, revision: 1, raft_term: 2}, version "3.5.1",
        // db size 20480, leader 5, raft index 8, raft term 2.
        let message = b"\x0a\x06\x10\x05\x18\x01\x20\x02\x12\x053.5.1\x18\x80\xa0\x01\x20\x05\x28\x08\x30\x02";
        let mut frame = BytesMut::from(&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..]);
        frame.extend_from_slice(message);
        let status: StatusResponse = decode_frame(&frame.freeze()).unwrap();
        assert_eq!((status.version.as_str(), status.leader), ("3.5.1", 5));
        let header = status.header.unwrap();
        assert_eq!((header.member_id, header.raft_term), (5, 2));
    }

    proptest! {
        #[test]
        fn a_frame_gives_back_its_message_and_no_part_of_it_does(
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let put = PutRequest { key: key.into(), value: value.into() };
            let frame = encode_frame(&put);
            prop_assert_eq!(decode_frame::<PutRequest>(&frame), Some(put));
            for cut in 0..frame.len() {
                prop_assert_eq!(decode_frame::<PutRequest>(&frame.slice(..cut)), None);
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_frame::<RangeResponse>(&Bytes::from(bytes));
        }
    }
}
