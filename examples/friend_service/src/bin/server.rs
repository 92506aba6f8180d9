//! Serves friends at the given address, or at any free port of this machine.

use friend_service::{FriendService, Friends};
use syncraft_rpc::{Server, ServerError};

fn main() -> Result<(), ServerError> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let service = Friends::default().into_service();
    let server = Server::builder().service(service).bind(addr).handlers(8).build()?.start();
    println!("serving on {}", server.local_addr());
    loop {
        std::thread::park();
    }
}
