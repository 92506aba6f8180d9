//! A gRPC stream in both directions: any number of messages each way, of one call.

use bytes::{Buf, Bytes};
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use prost::Message;

use crate::etcd::{Error, PREFIX_LEN, check_status, frame};

/// What the caller sends. Dropping it ends the stream.
pub struct Requests(SendStream<Bytes>);

impl Requests {
    pub fn new(body: SendStream<Bytes>) -> Requests {
        Requests(body)
    }

    /// Never waits: what the connection cannot take yet is kept.
    pub fn send(&mut self, request: &impl Message) -> Result<(), Error> {
        Ok(self.0.send_data(frame(request), false)?)
    }
}

/// What the member sends.
pub struct Replies {
    /// Until the first reply has come, with the head.
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// What has come and was not given out.
    rest: Bytes,
}

impl Replies {
    pub fn new(response: ResponseFuture) -> Replies {
        Replies { response: Some(response), body: None, rest: Bytes::new() }
    }

    /// The next message. A stream that the member ends is an error: nothing here asks for that.
    pub async fn next<R: Message + Default>(&mut self) -> Result<R, Error> {
        loop {
            if let Some(message) = take_message(&mut self.rest) {
                return R::decode(message).map_err(|_| Error::Malformed);
            }
            let Some(chunk) = self.body().await?.data().await else { return Err(self.end().await) };
            let chunk = chunk?;
            self.body().await?.flow_control().release_capacity(chunk.len())?;
            self.rest = match self.rest.is_empty() {
                true => chunk,
                false => [&self.rest[..], &chunk].concat().into(),
            };
        }
    }

    async fn body(&mut self) -> Result<&mut RecvStream, Error> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await?.into_parts();
            check_status(&head.headers)?;
            self.body = Some(body);
        }
        self.body.as_mut().ok_or(Error::Ended)
    }

    async fn end(&mut self) -> Error {
        let Some(body) = &mut self.body else { return Error::Ended };
        match body.trailers().await {
            Ok(Some(trailers)) => check_status(&trailers).err().unwrap_or(Error::Ended),
            Ok(None) => Error::Ended,
            Err(error) => error.into(),
        }
    }
}

/// Takes the first message out, if all of it has come.
fn take_message(bytes: &mut Bytes) -> Option<Bytes> {
    let len = bytes.get(1..PREFIX_LEN)?.get_u32() as usize;
    if bytes.len() - PREFIX_LEN < len {
        return None;
    }
    bytes.advance(PREFIX_LEN);
    Some(bytes.split_to(len))
}
