//! [`Port`].

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// A loopback port that stays ours while nobody listens on it: a socket is bound to it and never listens. Connections to it
/// are refused and no program is given it as a free one, but a program that is told to may listen on it.
#[derive(Debug)]
pub struct Port {
    addr: SocketAddr,
    _holder: Socket,
}

impl Port {
    /// Any free one.
    ///
    /// # Errors
    /// When the system has none.
    pub fn free() -> io::Result<Port> {
        let holder = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = holder.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Port { addr, _holder: holder })
    }

    /// Its address on the loopback interface.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Listens on it.
    ///
    /// # Errors
    /// When someone does already.
    pub fn listen(&self) -> io::Result<TcpListener> {
        let socket = bind(self.addr)?;
        socket.listen(1024)?;
        Ok(socket.into())
    }
}

/// Two sockets may be bound to one port as long as both allow it and only one listens.
fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_held_port_refuses_until_someone_listens_and_after() {
        let port = Port::free().unwrap();
        let is_refused = || {
            TcpStream::connect(port.addr()).unwrap_err().kind() == io::ErrorKind::ConnectionRefused
        };
        assert!(is_refused());
        for _ in 0..3 {
            let listener = port.listen().unwrap();
            assert!(port.listen().is_err(), "one listener at a time");
            TcpStream::connect(port.addr()).unwrap();
            drop(listener);
            assert!(is_refused());
        }
    }
}
