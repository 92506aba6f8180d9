//! HTTP/1.1 over one connection that is kept, as far as the load needs it: a POST, and its answer
//! as a whole or chunk by chunk.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::etcd::Error;

pub struct Http {
    socket: TcpStream,
    host: String,
    /// What has come and was not given out, from `begin` on.
    buffer: Vec<u8>,
    begin: usize,
}

/// How a body ends.
enum Framing {
    After(usize),
    WithLastChunk,
}

impl Http {
    pub async fn open(addr: &str) -> std::io::Result<Http> {
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        Ok(Http { socket, host: addr.to_owned(), buffer: Vec::new(), begin: 0 })
    }

    /// The whole answer to a request.
    pub async fn post(&mut self, path: &str, body: &str) -> Result<String, Error> {
        let (status, framing) = self.ask(path, body).await?;
        let answer = match framing {
            Framing::After(len) => {
                self.fill(len).await?;
                self.take(len)
            }
            Framing::WithLastChunk => {
                let mut all = String::new();
                loop {
                    match self.chunk().await {
                        Ok(chunk) => all.push_str(&chunk),
                        Err(Error::Ended) => break all,
                        Err(error) => return Err(error),
                    }
                }
            }
        };
        if status == 200 { Ok(answer) } else { Err(Error::Status(status, answer)) }
    }

    /// Asks for an answer that comes in chunks: see [`Http::chunk`].
    pub async fn open_stream(&mut self, path: &str, body: &str) -> Result<(), Error> {
        match self.ask(path, body).await? {
            (200, Framing::WithLastChunk) => Ok(()),
            (status, _) => Err(Error::Status(status, "no stream".to_owned())),
        }
    }

    /// The next chunk of an answer; after the last one an error.
    pub async fn chunk(&mut self) -> Result<String, Error> {
        let line = self.line().await?;
        let len = usize::from_str_radix(line.trim_end(), 16).map_err(|_| Error::Malformed)?;
        self.fill(len + b"\r\n".len()).await?;
        let chunk = self.take(len);
        self.take(b"\r\n".len());
        if len == 0 { Err(Error::Ended) } else { Ok(chunk) }
    }

    /// Sends a request, and reads the head of its answer.
    async fn ask(&mut self, path: &str, body: &str) -> Result<(u32, Framing), Error> {
        let (host, len) = (&self.host, body.len());
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len}\r\n\r\n{body}");
        self.socket.write_all(request.as_bytes()).await.map_err(|_| Error::Ended)?;
        let status = self.line().await?;
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(Error::Malformed)?;
        let mut framing = Framing::After(0);
        loop {
            let line = self.line().await?.to_ascii_lowercase();
            match line.trim_end().split_once(':') {
                Some(("content-length", len)) => {
                    framing = Framing::After(len.trim().parse().map_err(|_| Error::Malformed)?);
                }
                Some(("transfer-encoding", _)) => framing = Framing::WithLastChunk,
                Some(_) => {}
                None => return Ok((status, framing)),
            }
        }
    }

    /// The next line, with its end.
    async fn line(&mut self) -> Result<String, Error> {
        let mut searched = 0;
        loop {
            let rest = &self.buffer[self.begin + searched..];
            if let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
                return Ok(self.take(searched + at + 1));
            }
            searched += rest.len();
            self.fill(searched + 1).await?;
        }
    }

    /// Waits until so much has come.
    async fn fill(&mut self, len: usize) -> Result<(), Error> {
        while self.buffer.len() - self.begin < len {
            if self.begin == self.buffer.len() {
                self.buffer.clear();
            } else {
                self.buffer.drain(..self.begin);
            }
            self.begin = 0;
            let read = self.socket.read_buf(&mut self.buffer).await;
            if !matches!(read, Ok(1..)) {
                return Err(Error::Ended);
            }
        }
        Ok(())
    }

    /// Gives out what has come.
    fn take(&mut self, len: usize) -> String {
        let bytes = &self.buffer[self.begin..self.begin + len];
        self.begin += len;
        String::from_utf8_lossy(bytes).into_owned()
    }
}
