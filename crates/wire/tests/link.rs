//! Links and tickets: what is written is read, versions meet, bad input gets a clear error.

use wire::control::{Control, Member};
use wire::frame::{Body, End, MAX_DATA, StreamFrame};
use wire::link::{
    self, FrameReader, Hello, LinkError, LinkKind, MAX_CONTROL, MAX_HELLO, MAX_STREAM, Secret,
    Versions,
};
use wire::ticket::{Ticket, TicketError};
use wire::{Epoch, NodeId, ProcessId, StreamId};

fn data(length: usize) -> StreamFrame {
    StreamFrame {
        process: ProcessId(u64::MAX),
        stream: StreamId(u64::MAX),
        to: End::Process,
        epoch: Epoch(u64::MAX),
        body: Body::Data {
            offset: u64::MAX,
            bytes: vec![0xff; length],
        },
    }
}

#[test]
fn the_longest_data_fits_into_a_frame() {
    let mut bytes = Vec::new();
    link::write_frame(&data(MAX_DATA), MAX_STREAM, &mut bytes).unwrap();
    let mut reader = FrameReader::new(MAX_STREAM);
    for chunk in bytes.chunks(MAX_STREAM) {
        assert_eq!(reader.next_frame::<StreamFrame>(), Ok(None));
        reader.push(chunk).unwrap();
    }
    assert_eq!(reader.next_frame(), Ok(Some(data(MAX_DATA))));
    assert_eq!(reader.buffered(), 0);
}

#[test]
fn a_message_that_is_too_long_is_not_written() {
    let mut bytes = b"before".to_vec();
    let error = link::write_frame(&data(2 * MAX_DATA), MAX_STREAM, &mut bytes).unwrap_err();
    assert!(matches!(error, LinkError::TooLong { .. }));
    assert_eq!(bytes, b"before");
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_anything_is_kept() {
    let mut reader = FrameReader::new(100);
    reader.push(&101u32.to_le_bytes()).unwrap();
    let error = LinkError::TooLong {
        length: 101,
        limit: 100,
    };
    assert_eq!(reader.next_message(), Err(error.clone()));
    assert_eq!(reader.push(b"more"), Err(error));
    assert_eq!(reader.buffered(), 0);
}

#[test]
fn a_reader_that_is_not_emptied_fills_up() {
    let mut reader = FrameReader::new(100);
    reader.push(&[0; 208]).unwrap();
    assert!(matches!(reader.push(&[0]), Err(LinkError::Full { .. })));
}

#[test]
fn bytes_behind_a_message_are_refused() {
    let mut bytes = Vec::new();
    link::write_frame(&(Control::Heartbeat, 1u8), MAX_CONTROL, &mut bytes).unwrap();
    let mut reader = FrameReader::new(MAX_CONTROL);
    reader.push(&bytes).unwrap();
    assert!(matches!(
        reader.next_frame::<Control>(),
        Err(LinkError::Malformed(_))
    ));
}

#[test]
fn frames_are_exactly_these_bytes() {
    let mut bytes = Vec::new();
    Hello::new(LinkKind::Streams, "a", 3)
        .write_frame(&mut bytes)
        .unwrap();
    assert_eq!(bytes, b"\x0c\0\0\0LMSA\x02\0\x02\0\x01\x01a\x03");
    bytes.clear();
    let frame = StreamFrame {
        process: ProcessId(1),
        stream: StreamId(2),
        to: End::Process,
        epoch: Epoch(3),
        body: Body::Data {
            offset: 300,
            bytes: b"hi".to_vec(),
        },
    };
    link::write_frame(&frame, MAX_STREAM, &mut bytes).unwrap();
    assert_eq!(bytes, b"\x0a\0\0\0\x01\x02\x01\x03\x01\xac\x02\x02hi");
}

#[test]
fn hellos_agree_on_the_newest_version_that_both_speak() {
    let versions = |oldest, newest| Versions { oldest, newest };
    assert_eq!(versions(1, 2).agree(versions(2, 3)), Ok(2));
    assert_eq!(versions(2, 3).agree(versions(1, 2)), Ok(2));
    assert_eq!(versions(1, 1).agree(versions(1, 1)), Ok(1));
    let error = versions(1, 2).agree(versions(3, 4)).unwrap_err();
    assert!(error.to_string().contains("1 to 2"), "{error}");
    assert!(error.to_string().contains("3 to 4"), "{error}");
    assert!(versions(3, 4).agree(versions(1, 2)).is_err());
}

#[test]
fn a_hello_of_a_later_version_may_say_more() {
    let mut hello = Hello::new(LinkKind::Control, "north", 9);
    let mut bytes = Vec::new();
    hello.versions.newest = Versions::OURS.newest + 1;
    hello.write_frame(&mut bytes).unwrap();
    bytes.extend(b"more");
    assert_eq!(Hello::decode(&bytes[4..]), Ok(hello.clone()));
    assert_eq!(hello.agree(), Ok(Versions::OURS.newest));

    hello.versions.newest = Versions::OURS.newest;
    bytes.clear();
    hello.write_frame(&mut bytes).unwrap();
    bytes.extend(b"more");
    assert!(matches!(
        Hello::decode(&bytes[4..]),
        Err(LinkError::Malformed(_))
    ));
}

#[test]
fn whoever_does_not_greet_is_no_node() {
    for bytes in [&b""[..], b"GET / HTTP/1.1", b"LMSA", b"LMSA\x01"] {
        assert_eq!(Hello::decode(bytes), Err(LinkError::NotANode));
    }
    let long = Hello::new(LinkKind::Control, "n".repeat(MAX_HELLO), 0);
    assert!(long.write_frame(&mut Vec::new()).is_err());
}

#[test]
fn a_proof_is_good_for_its_two_nodes_and_its_secret_only() {
    let (joiner, host) = (NodeId([1; 32]), NodeId([2; 32]));
    let secret = Secret([3; 32]);
    let proof = secret.prove(joiner, host);
    assert!(secret.verify(&proof, joiner, host));
    assert!(!secret.verify(&proof, host, joiner));
    assert!(!secret.verify(&proof, joiner, NodeId([4; 32])));
    assert!(!Secret([5; 32]).verify(&proof, joiner, host));
    let join = link::Join {
        proof,
        member: Member {
            node: joiner,
            name: "east".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            incarnation: 1,
        },
    };
    let shown = format!("{secret:?} {join:?}");
    assert!(
        !shown.contains("3, 3") && shown.contains("not shown"),
        "{shown}"
    );
}

fn ticket() -> Ticket {
    let addresses = vec!["192.0.2.1:7070".to_owned(), "[2001:db8::1]:7070".to_owned()];
    Ticket::new(NodeId([7; 32]), addresses, Secret([8; 32])).unwrap()
}

#[test]
fn a_ticket_is_read_as_it_was_written() {
    let text = ticket().to_string();
    assert!(text.starts_with("limosa-aedqo"), "{text}");
    assert_eq!(text.parse(), Ok(ticket()));
    let loud = format!("  {}\n", text.to_uppercase());
    assert_eq!(loud.parse(), Ok(ticket()));
}

#[test]
fn a_ticket_does_not_show_its_secret() {
    let shown = format!("{:?}", ticket());
    assert!(shown.contains("192.0.2.1:7070") && shown.contains("not shown"));
    assert!(
        !shown.contains("8, 8") && !shown.contains("0808"),
        "{shown}"
    );
}

#[test]
fn a_wrong_ticket_gets_an_error_that_says_what_is_wrong() {
    let text = ticket().to_string();
    let parse = |text: &str| text.parse::<Ticket>().unwrap_err();
    assert_eq!(parse(""), TicketError::NotATicket);
    assert_eq!(parse("swarm-abc"), TicketError::NotATicket);
    assert_eq!(parse(&"é".repeat(10)), TicketError::NotATicket);
    assert_eq!(parse("limosa-"), TicketError::Checksum);
    let error = parse("limosa-ab1");
    assert_eq!(
        error,
        TicketError::Character {
            position: 10,
            found: '1'
        }
    );
    assert_eq!(parse("limosa-ae"), TicketError::Checksum);
    assert_eq!(parse("limosa-aiaaaaaaaa"), TicketError::Newer(2));
    for cut in "limosa-".len()..text.len() {
        assert_eq!(parse(&text[..cut]), TicketError::Checksum, "cut at {cut}");
    }
    for at in "limosa-a".len()..text.len() {
        let mut typo = text.clone().into_bytes();
        typo[at] = if typo[at] == b'q' { b'r' } else { b'q' };
        let typo = String::from_utf8(typo).unwrap();
        assert!(typo.parse::<Ticket>().is_err(), "{typo}");
    }
    assert!(Ticket::new(NodeId([0; 32]), vec![], Secret([0; 32])).is_err());
    assert!(Ticket::new(NodeId([0; 32]), vec!["a".repeat(256)], Secret([0; 32])).is_err());
}
