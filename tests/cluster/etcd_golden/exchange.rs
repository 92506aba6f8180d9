//! [`Exchange`]: one request over HTTP and its answer, document by document.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A request on a connection of its own.
pub(super) struct Exchange {
    stream: TcpStream,
    is_head: bool,
    /// What has come and is not taken yet.
    buffer: Vec<u8>,
    /// 0 until the head has come.
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) fields: BTreeMap<String, String>,
}

impl Exchange {
    /// `line`: method and target. `fields`: replace the usual ones; `None` leaves one out.
    pub(super) fn send(
        addr: SocketAddr,
        line: &str,
        fields: &BTreeMap<String, Option<String>>,
        body: &[u8],
    ) -> io::Result<Exchange> {
        let mut all = BTreeMap::from([
            ("Content-Length".to_owned(), Some(body.len().to_string())),
            ("Host".to_owned(), Some(addr.to_string())),
        ]);
        all.extend(fields.clone());
        let mut head = format!("{line} HTTP/1.1\r\n");
        for (name, value) in all {
            if let Some(value) = value {
                head += &format!("{name}: {value}\r\n");
            }
        }
        let mut stream = TcpStream::connect(addr)?;
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        // A server that refuses the request need not read its body.
        let _ = stream.write_all(body);
        Ok(Exchange {
            stream,
            is_head: line.starts_with("HEAD "),
            buffer: Vec::new(),
            status: 0,
            fields: BTreeMap::new(),
        })
    }

    /// The next document of a stream: whole chunks, ended by a line feed unless it is the last one.
    /// `None` at the end of the stream.
    pub(super) fn document(&mut self) -> io::Result<Option<Value>> {
        self.read_head()?;
        if !self.is_chunked() {
            return Err(io::Error::other(format!("no stream, but status {}", self.status)));
        }
        let mut text = Vec::new();
        while !text.ends_with(b"\n") {
            match self.chunk()? {
                Some(chunk) => text.extend(chunk),
                None => break,
            }
        }
        if text.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(&text)?)) }
    }

    /// The rest of the body.
    pub(super) fn body(&mut self) -> io::Result<Vec<u8>> {
        self.read_head()?;
        if self.is_head || self.status == 204 {
            return Ok(Vec::new());
        }
        if self.is_chunked() {
            let mut all = Vec::new();
            while let Some(chunk) = self.chunk()? {
                all.extend(chunk);
            }
            return Ok(all);
        }
        let length = self.fields.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
        self.exactly(length)
    }

    /// Whether no part of a document comes in this time. The head alone is none.
    pub(super) fn is_silent(&mut self, time: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + time;
        loop {
            let has_head = self.buffer.windows(4).any(|it| it == b"\r\n\r\n");
            if self.status == 0 && has_head {
                self.read_head()?;
            }
            if self.status != 0 && !self.buffer.is_empty() {
                return Ok(false);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            match self.more(left) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn close(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn is_chunked(&self) -> bool {
        self.fields.get("transfer-encoding").is_some_and(|it| it == "chunked")
    }

    fn read_head(&mut self) -> io::Result<()> {
        if self.status != 0 {
            return Ok(());
        }
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|it| it.parse().ok());
        self.status = status.ok_or_else(|| io::Error::other(format!("no status in {first}")))?;
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Ok(()) };
            self.fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }

    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let length = self.line()?;
        let length = usize::from_str_radix(&length, 16).map_err(io::Error::other)?;
        let chunk = self.exactly(length)?;
        self.exactly(2)?;
        Ok(Some(chunk).filter(|it| !it.is_empty()))
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|it| it == b"\r\n") {
                let line = self.exactly(end + 2)?;
                return String::from_utf8(line[..end].to_vec()).map_err(io::Error::other);
            }
            self.more(TIMEOUT)?;
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.more(TIMEOUT)?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Waits for bytes at most this long.
    fn more(&mut self, time: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(time))?;
        let mut piece = [0; 1 << 14];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.buffer.extend(&piece[..length]);
                Ok(())
            }
            // What a read timeout is called differs between systems.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::TimedOut.into())
            }
            Err(error) => Err(error),
        }
    }
}
