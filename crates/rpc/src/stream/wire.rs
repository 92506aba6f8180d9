//! The frames of streams: which kinds there are, and how each side writes them.

use bytes::Bytes;

use super::Over;
use crate::Status;
use crate::frame::{HeadSize, append, encode};
use crate::header::{RpcHeader, RpcReplyHeader};
use crate::service::Reply;

/// What stands in place of a service's name in the caller's frames after the first one: a header
/// must begin with a name. No service of a .proto can have it.
const NO_SERVICE: &[u8] = b":";

/// What a frame of a stream is. The numbers are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// The caller opens a stream, and will send items.
    Open = 1,
    /// The caller opens a stream with its only request, and will send no items.
    OpenOne = 2,
    Item = 3,
    Credit = 4,
    /// The caller will send no more items; or the server ends the stream.
    End = 5,
    /// The caller gives the stream up.
    Cancel = 6,
}

impl Kind {
    pub(crate) fn from_number(number: u32) -> Option<Kind> {
        use Kind::{Cancel, Credit, End, Item, Open, OpenOne};
        [Open, OpenOne, Item, Credit, End, Cancel].into_iter().find(|it| *it as u32 == number)
    }
}

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Server,
}

/// Writes the frames of one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    pub(crate) side: Side,
    pub(crate) head_size: HeadSize,
    pub(crate) id: u64,
}

impl Wire {
    /// An item, whose length is within the limit of frames.
    pub(crate) fn item(&self, item: &Reply<'_>) -> Bytes {
        let mut frame = Vec::new();
        self.append_item(&mut frame, item);
        Bytes::from(frame)
    }

    /// Appends the frame of an item to other frames.
    pub(crate) fn append_item(&self, frames: &mut Vec<u8>, item: &Reply<'_>) {
        let len = item.len as u32;
        match self.side {
            Side::Caller => {
                let head = RpcHeader { args_size: len, ..self.caller(Kind::Item) };
                append(frames, self.head_size, &head, item.write);
            }
            Side::Server => {
                let head = RpcReplyHeader { reply_size: len, ..self.server(Kind::Item) };
                append(frames, self.head_size, &head, item.write);
            }
        }
    }

    pub(crate) fn credit(&self, credit: u64) -> Bytes {
        match self.side {
            Side::Caller => self.bare(&RpcHeader { credit, ..self.caller(Kind::Credit) }),
            Side::Server => {
                let head = RpcReplyHeader { credit, ..self.server(Kind::Credit) };
                encode(self.head_size, &head, |_| {})
            }
        }
    }

    /// The caller will send no more items.
    pub(crate) fn no_more(&self) -> Bytes {
        self.bare(&self.caller(Kind::End))
    }

    /// Tells the other side that the stream is over.
    pub(crate) fn last(&self, over: &Over) -> Bytes {
        let head = match (self.side, over) {
            (Side::Caller, _) => return self.bare(&self.caller(Kind::Cancel)),
            (Side::Server, Over::Refused(status)) => status.to_head(self.id),
            (Side::Server, Over::Ended(status)) => self.end(status),
            (Side::Server, Over::Done | Over::Failed { .. }) => self.server(Kind::End),
        };
        encode(self.head_size, &head, |_| {})
    }

    fn end(&self, status: &Status) -> RpcReplyHeader {
        RpcReplyHeader { stream: Kind::End as u32, ..status.to_head(self.id) }
    }

    fn bare(&self, head: &RpcHeader) -> Bytes {
        encode(self.head_size, head, |_| {})
    }

    fn caller(&self, kind: Kind) -> RpcHeader {
        RpcHeader {
            service_name: Bytes::from_static(NO_SERVICE),
            call_id: self.id,
            stream: kind as u32,
            ..RpcHeader::default()
        }
    }

    fn server(&self, kind: Kind) -> RpcReplyHeader {
        RpcReplyHeader { call_id: self.id, stream: kind as u32, ..RpcReplyHeader::default() }
    }
}
