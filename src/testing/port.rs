//! [`Port`]: a port that stays reserved.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// A loopback port that stays reserved while nobody listens on it: a socket is bound to it and
/// never listens. Connections to the port are refused, and the system gives it to no program that
/// asks for a free one. But a program may listen on it if it asks for this port.
#[derive(Debug)]
pub struct Port {
    addr: SocketAddr,
    _holder: Socket,
}

impl Port {
    /// Reserves any free port.
    ///
    /// # Errors
    /// The system has none.
    pub fn free() -> io::Result<Port> {
        Port::at(0)
    }

    /// Reserves this port; 0: any free one.
    ///
    /// # Errors
    /// Somebody listens on it, or the system has none.
    pub fn at(port: u16) -> io::Result<Port> {
        let holder = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let addr = holder.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Port { addr, _holder: holder })
    }

    /// Its address on the loopback interface.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Listens on the port.
    ///
    /// # Errors
    /// Somebody else does.
    pub fn listen(&self) -> io::Result<TcpListener> {
        let socket = bind(self.addr)?;
        socket.listen(1024)?;
        Ok(socket.into())
    }
}

/// Two sockets may be bound to one port if both allow it and only one listens.
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
            assert!(Port::at(port.addr().port()).is_err(), "it is in use");
            TcpStream::connect(port.addr()).unwrap();
            drop(listener);
            assert!(is_refused());
        }
    }
}
