use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::FrameLimits;

const LIMIT: usize = 100_000;

fn limits() -> FrameLimits {
    FrameLimits { body_len_max_bytes: LIMIT }
}

fn header(service: &'static str, args_size: usize) -> RpcHeader {
    RpcHeader {
        service_name: Bytes::from_static(service.as_bytes()),
        method_name: Bytes::from_static(b"Echo"),
        args_size: args_size as u32,
        ..RpcHeader::default()
    }
}

fn frame<H: Head>(head_size: HeadSize, head: &H, body: &[u8]) -> Bytes {
    encode(head_size, head, |buf| buf.extend_from_slice(body))
}

/// Gives `bytes` to the decoder in pieces of the sizes that `piece` says, and collects the frames.
fn decode<H: Head>(
    mut decoder: Decoder,
    mut bytes: &[u8],
    mut piece: impl FnMut() -> usize,
) -> Result<Vec<Frame<H>>, FrameError> {
    let mut frames = Vec::new();
    loop {
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
        if bytes.is_empty() {
            return Ok(frames);
        }
        let space = decoder.space();
        let count = piece().min(space.len()).min(bytes.len());
        assert!(count > 0, "no space, though the decoder wants more");
        space[..count].copy_from_slice(&bytes[..count]);
        decoder.filled(count);
        bytes = &bytes[count..];
    }
}

/// Checks that `bytes` give `expected`: whole, byte by byte, and cut in two at every place.
fn check(bytes: &[u8], expected: &[Frame<RpcHeader>]) {
    let detecting = || Decoder::detecting(limits());
    assert_eq!(decode(detecting(), bytes, || usize::MAX).unwrap(), expected);
    assert_eq!(decode(detecting(), bytes, || 1).unwrap(), expected);
    for cut in 1..bytes.len().min(3000) {
        let mut pieces = [cut, usize::MAX].into_iter().cycle();
        assert_eq!(
            decode(detecting(), bytes, || pieces.next().unwrap()).unwrap(),
            expected,
            "cut at {cut}"
        );
    }
}

fn check_error(bytes: &[u8], words: &str) {
    for piece in [1, usize::MAX] {
        let error = decode::<RpcHeader>(Decoder::detecting(limits()), bytes, || piece)
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{error} instead of {words}");
    }
}

#[test]
fn frames_of_both_framings_arrive_in_any_pieces() {
    for head_size in [HeadSize::U32Le, HeadSize::Varint] {
        let bodies: [&[u8]; 3] = [b"args", b"", &[7; 300]];
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for body in bodies {
            let head = header("echoRpc", body.len());
            bytes.extend_from_slice(&frame(head_size, &head, body));
            expected.extend([Frame::Head(head), Frame::Body(Bytes::copy_from_slice(body))]);
        }
        check(&bytes, &expected);
    }
}

#[test]
fn a_body_longer_than_the_buffer_arrives() {
    let body: Vec<u8> = (0..LIMIT).map(|i| i as u8).collect();
    let head = header("echoRpc", body.len());
    let bytes =
        [frame(HeadSize::U32Le, &head, &body), frame(HeadSize::U32Le, &head, &body)].concat();
    let expected =
        [(); 2].map(|()| [Frame::Head(head.clone()), Frame::Body(Bytes::from(body.clone()))]);
    for piece in [1000, 16_384, 65_536, usize::MAX] {
        let frames = decode(Decoder::detecting(limits()), &bytes, || piece).unwrap();
        assert!(frames == expected.as_flattened(), "pieces of {piece}");
    }
}

#[test]
fn a_header_as_long_as_allowed_is_taken_and_one_longer_is_not() {
    for head_size in [HeadSize::U32Le, HeadSize::Varint] {
        let mut head = header("echoRpc", 0);
        head.caller = Bytes::from(vec![b'x'; 1024 - head.encoded_len() - 3]);
        assert_eq!(head.encoded_len(), 1024);
        check(
            &frame(head_size, &head, b""),
            &[Frame::Head(head.clone()), Frame::Body(Bytes::new())],
        );
    }
    check_error(&[0x01, 0x04, 0, 0, 0x0a], "a header of 1025 bytes");
    check_error(&[0x81, 0x08, 0x0a], "a header of 1025 bytes");
}

#[test]
fn lengths_beyond_reason_are_refused() {
    check_error(&[0, 0, 0, 0], "a header of 0 bytes");
    check_error(&[0x14, 0, 0, 1], "a header of 16777236 bytes");
    // 2^31 and 2^32 - 1 as the first length of a connection, and as a later one.
    let good = frame(HeadSize::U32Le, &header("echoRpc", 0), b"");
    check_error(&[0, 0, 0, 0x80], "a header of 2147483648 bytes");
    check_error(&[0xff; 4], "unknown protocol");
    check_error(&[&good[..], &[0xff; 4]].concat(), "a header of 4294967295 bytes");
    let good = frame(HeadSize::Varint, &header("echoRpc", 0), b"");
    check_error(&[&good[..], &[0xff; 10]].concat(), "a header of 32767 bytes");
    check_error(&[&good[..], &[0]].concat(), "a header of 0 bytes");
}

#[test]
fn a_body_over_the_limit_is_passed_over_and_the_next_frame_is_in_step() {
    let (long, good) = (header("echoRpc", LIMIT + 1), header("echoRpc", 2));
    let bytes = [
        &frame(HeadSize::U32Le, &long, &[9; LIMIT + 1])[..],
        &frame(HeadSize::U32Le, &good, b"ok"),
    ]
    .concat();
    let expected = [
        Frame::TooLong(long),
        Frame::Skipped,
        Frame::Head(good),
        Frame::Body(Bytes::from_static(b"ok")),
    ];
    for piece in [77, usize::MAX] {
        assert_eq!(decode(Decoder::detecting(limits()), &bytes, || piece).unwrap(), expected);
    }
}

#[test]
fn nothing_is_allocated_for_a_body_that_is_only_announced() {
    for args_size in [LIMIT + 1, 1 << 31, u32::MAX as usize] {
        let mut decoder = Decoder::detecting(limits());
        let mut bytes = header("echoRpc", args_size).encode_to_vec();
        bytes.splice(0..0, (bytes.len() as u32).to_le_bytes());
        decoder.space()[..bytes.len()].copy_from_slice(&bytes);
        decoder.filled(bytes.len());
        assert!(matches!(decoder.next::<RpcHeader>(), Ok(Some(Frame::TooLong(_)))), "{args_size}");
        assert!(decoder.next::<RpcHeader>().unwrap().is_none());
        assert_eq!(decoder.space().len(), 16 * 1024);
    }
}

/// 300 KB of small frames, in reads as long as the decoder has room for.
#[test]
fn a_channel_reads_more_at_once_while_much_comes() {
    let one = frame(HeadSize::U32Le, &header("echoRpc", 4), b"body");
    let bytes = one.repeat(300_000 / one.len());
    let spaces = |mut decoder: Decoder| {
        let (mut left, mut bodies, mut spaces) = (&bytes[..], 0, Vec::new());
        while !left.is_empty() {
            let space = decoder.space();
            let count = space.len().min(left.len());
            space[..count].copy_from_slice(&left[..count]);
            (left, spaces) = (&left[count..], [spaces, vec![space.len() >> 10]].concat());
            decoder.filled(count);
            while let Some(part) = decoder.next::<RpcHeader>().unwrap() {
                bodies += usize::from(part == Frame::Body(Bytes::from_static(b"body")));
            }
        }
        assert_eq!((bodies, decoder.is_between_frames()), (bytes.len() / one.len(), true));
        spaces
    };
    let of_channel = spaces(Decoder::of(HeadSize::U32Le, limits()));
    assert_eq!((of_channel[0], of_channel.iter().max()), (16, Some(&128)), "{of_channel:?}");
    assert!(spaces(Decoder::detecting(limits())).iter().all(|&kib| kib <= 16));
}

#[test]
fn a_body_can_be_passed_over_on_request() {
    let head = header("echoRpc", 4);
    let bytes =
        [frame(HeadSize::U32Le, &head, b"skip"), frame(HeadSize::U32Le, &head, b"take")].concat();
    let mut decoder = Decoder::detecting(limits());
    decoder.space()[..bytes.len()].copy_from_slice(&bytes);
    decoder.filled(bytes.len());
    let mut next = || decoder.next::<RpcHeader>().unwrap().unwrap();
    assert_eq!(next(), Frame::Head(head.clone()));
    decoder.skip_body();
    let mut next = || decoder.next::<RpcHeader>().unwrap().unwrap();
    assert_eq!(
        [next(), next(), next()],
        [Frame::Skipped, Frame::Head(head), Frame::Body(Bytes::from_static(b"take"))]
    );
    assert!(decoder.is_between_frames());
}

#[test]
fn headers_that_are_none_are_refused() {
    check_error(&[5, 0, 0, 0, 0x12, 1, b'x', 0, 0], "begins with byte 0x12");
    check_error(&[3, 0, 0, 0, 0x0a, 9, b'x'], "does not decode");
    check_error(&[0x16, 3, 0, 0, 0x5b], "begins with byte 0x5b");
    check_error(b"GET / HTTP/1.1\r\n\r\n", "HTTP");
    check_error(&[0x16, 3, 1, 2, 0], "TLS");
}

proptest! {
    #[test]
    fn any_header_and_body_round_trip(
        service in prop::collection::vec(any::<u8>(), 1..200),
        method in prop::collection::vec(any::<u8>(), 0..200),
        caller in prop::collection::vec(any::<u8>(), 0..256),
        (client_id, trace) in (any::<[u8; 16]>(), prop::collection::vec(any::<u8>(), 0..128)),
        (call_id, deadline_ms, codec) in any::<(u64, u32, u32)>(),
        (version, request_id, attempt) in any::<(u32, u64, u32)>(),
        (stream, credit) in any::<(u32, u64)>(),
        body in prop::collection::vec(any::<u8>(), 0..40_000),
        piece in 1..20_000usize,
        varint in any::<bool>(),
    ) {
        let (service_name, method_name, caller) = (service.into(), method.into(), caller.into());
        let args_size = body.len() as u32;
        let (client_id, trace) = (Bytes::copy_from_slice(&client_id), Bytes::from(trace));
        let head = RpcHeader {
            service_name,
            method_name,
            args_size,
            call_id,
            deadline_ms,
            codec,
            caller,
            version,
            client_id,
            request_id,
            attempt,
            trace,
            stream,
            credit,
        };
        let head_size = if varint { HeadSize::Varint } else { HeadSize::U32Le };
        let bytes = frame(head_size, &head, &body);
        let frames = decode(Decoder::detecting(limits()), &bytes, || piece).unwrap();
        prop_assert_eq!(frames, vec![Frame::Head(head), Frame::Body(body.into())]);
    }

    #[test]
    fn any_reply_header_and_body_round_trip(
        (call_id, status, retry_after_ms) in any::<(u64, u32, u32)>(),
        message in "\\PC{0,120}",
        (stream, credit) in any::<(u32, u64)>(),
        body in prop::collection::vec(any::<u8>(), 0..40_000),
        piece in 1..20_000usize,
        varint in any::<bool>(),
    ) {
        let reply_size = body.len() as u32;
        let head = RpcReplyHeader {
            call_id,
            status,
            message,
            reply_size,
            retry_after_ms,
            stream,
            credit,
        };
        let head_size = if varint { HeadSize::Varint } else { HeadSize::U32Le };
        let bytes = frame(head_size, &head, &body);
        let frames = decode(Decoder::of(head_size, limits()), &bytes, || piece);
        // A header of no bytes at all is refused; everything else comes back.
        if head == RpcReplyHeader::default() {
            prop_assert!(frames.is_err());
        } else {
            prop_assert_eq!(frames.unwrap(), vec![Frame::Head(head), Frame::Body(body.into())]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_nor_take_more_than_they_are(
        mut bytes in prop::collection::vec(any::<u8>(), 0..5_000),
        start in 0..4usize,
    ) {
        // Most random bytes end at the first three: let some of them begin like a frame.
        let starts: [&[u8]; 4] = [&[], &[3, 0, 0, 0, 0x0a, 1], &[0x0a, 0x0a, 3], &[0x90, 2, 0x0a, 0x30]];
        bytes.splice(0..0, starts[start].iter().copied());
        if let Ok(frames) = decode::<RpcHeader>(Decoder::detecting(limits()), &bytes, || 911) {
            let taken: usize = frames.iter().map(|f| if let Frame::Body(body) = f { body.len() } else { 0 }).sum();
            prop_assert!(taken <= bytes.len());
        }
    }
}

/// The requests that existing clients sent, as bytes.
fn captured_requests() -> Vec<Vec<u8>> {
    let hex = |text: &str| {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    };
    let lines = include_str!("vectors.jsonl").lines();
    lines
        .map(|line| {
            hex(serde_json::from_str::<serde_json::Value>(line).unwrap()["request"]
                .as_str()
                .unwrap())
        })
        .collect()
}

#[test]
fn captured_requests_decode_in_any_pieces_and_encode_to_the_same_bytes() {
    let requests = captured_requests();
    assert_eq!(requests.len(), 133);
    for request in requests {
        let frames = decode(Decoder::detecting(limits()), &request, || usize::MAX).unwrap();
        check(&request, &frames);
        let mut decoder = Decoder::detecting(limits());
        decoder.space()[..3].copy_from_slice(&request[..3]);
        decoder.filled(3);
        decoder.next::<RpcHeader>().unwrap();
        let head_size = decoder.head_size().unwrap();
        let again: Vec<u8> = frames
            .chunks(2)
            .flat_map(|pair| match pair {
                [Frame::Head(head), Frame::Body(body)] => frame(head_size, head, body),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(again, request);
    }
}
