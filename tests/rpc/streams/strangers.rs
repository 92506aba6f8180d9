//! Servers that do not stream, callers that do not, and those who disagree on what a method is.

use prost::Message;
use syncraft::rpc::{CallError, CallOptions, Framing, Incoming, Method, StatusCode};

use super::support::*;
use crate::peers::listen;
use crate::raw::{Echo, Raw, echo, soon};
use crate::support::{channel, serve_with};

fn open_list(channel: &syncraft::rpc::Channel, method: &Method) -> CallError {
    let options = CallOptions::default();
    let mut incoming: Incoming<Echo> = channel.open_stream(method, &options, &echo("x"), None);
    failure(&mut incoming)
}

#[test]
fn methods_that_do_not_exist_or_do_not_stream_are_unknown() {
    let fixture = Fixture::new();
    let error = open_list(&fixture.channel, &Method::new("streamRpc", "None"));
    assert_eq!(refused(&error), StatusCode::UnknownMethod);
    let error = open_list(&fixture.channel, &Method::new("noRpc", "List"));
    assert_eq!(refused(&error), StatusCode::UnknownService);
    let error = open_list(&fixture.channel, &PLAIN);
    assert_eq!(refused(&error), StatusCode::UnknownMethod);
    assert_eq!(fixture.report(&PLAIN).rejected, 1);
    fixture.check_alive();
}

#[test]
fn a_call_of_a_method_that_streams_is_refused() {
    let fixture = Fixture::new();
    for method in [LIST, LOAD, TALK] {
        let error = fixture.channel.call::<_, Echo>(&method, &echo("x"), soon()).unwrap_err();
        assert_eq!(refused(&error), StatusCode::UnknownMethod);
    }
    fixture.check_alive();
}

#[test]
fn a_stream_of_another_shape_is_refused() {
    let fixture = Fixture::new();
    for method in [LOAD, TALK] {
        assert_eq!(refused(&open_list(&fixture.channel, &method)), StatusCode::UnknownMethod);
    }
    let (sender, mut incoming) =
        fixture.channel.open_duplex::<Echo, Echo>(&LIST, &CallOptions::default(), None);
    let error = failure(&mut incoming);
    assert_eq!(refused(&error), StatusCode::UnknownMethod);
    assert_eq!(over(sender.try_send(&echo("x")).unwrap_err()), StatusCode::UnknownMethod);
    assert_eq!(fixture.report(&LIST).open, 0);
    fixture.check_alive();
}

#[test]
fn a_request_that_does_not_decode_is_refused() {
    let fixture = Fixture::new();
    let options = CallOptions::default();
    // A number where bytes should be.
    let mut incoming: Incoming<Echo> = fixture.channel.open_stream(&LIST, &options, &7u32, None);
    let error = failure(&mut incoming);
    assert_eq!(refused(&error), StatusCode::BadArguments);
}

/// A server of the time before streams runs the method as it knows it, or does not know it.
#[test]
fn a_server_that_knows_no_streams_is_found_out() {
    let (listener, addr) = listen();
    let channel = channel_to(addr);
    let mut incoming = list(&channel, "x", None);
    let mut peer = Raw::accept(&listener);
    let (head, _) = peer.next_call();
    peer.send(&plain_reply(head.call_id, &echo("a reply").encode_to_vec()));
    let error = failure(&mut incoming);
    assert!(matches!(error, CallError::BadReply { .. }), "{error}");
    let mut incoming = list(&channel, "x", None);
    let (head, _) = peer.next_call();
    peer.refuse(head.call_id, StatusCode::UnknownMethod);
    assert_eq!(refused(&failure(&mut incoming)), StatusCode::UnknownMethod);
}

/// It answers the items that follow an open as calls of an unknown service.
#[test]
fn items_do_not_disturb_a_server_that_knows_no_streams() {
    let (server, _) = serve_with(|builder| builder);
    let channel = channel_to(server.local_addr());
    let method = Method::new("testRpc", "Watch");
    let (sender, mut incoming) =
        channel.open_duplex::<Echo, Echo>(&method, &CallOptions::default(), None);
    let _ = sender.try_send(&echo("x"));
    assert_eq!(refused(&failure(&mut incoming)), StatusCode::UnknownMethod);
    channel.ping(soon()).unwrap();
}

#[test]
fn a_documented_framing_has_no_streams() {
    let fixture = Fixture::new();
    for framing in [Framing::Documented, Framing::DocumentedVarint] {
        let channel = channel(fixture.server.local_addr()).framing(framing).lazy();
        let error = open_list(&channel, &LIST);
        assert!(matches!(error, CallError::NotSent { .. }), "{error}");
    }
}
