//! HTTP/1.1 as far as a client on a kept connection needs it: cuts whole answers from a buffer.

/// Heads and bodies above these sizes are not from a server that this client can check.
const HEAD_LIMIT: usize = 64 * 1024;
const BODY_LIMIT: u64 = 16 * 1024 * 1024;
const HEADERS: usize = 64;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, without the framing of chunks.
    pub body: Vec<u8>,
    /// Whether the server keeps the connection open.
    pub keeps: bool,
}

/// Bytes that are no answer to a request on a kept connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not HTTP.
    #[error("not an HTTP answer: {0}")]
    Head(httparse::Error),
    /// The head does not end.
    #[error("the head of the answer is longer than {HEAD_LIMIT} bytes")]
    LongHead,
    /// A content length that is no number, is too large, or contradicts another.
    #[error("the answer's content-length cannot be used")]
    Length,
    /// The end of the body is the end of the connection.
    #[error("the answer has neither content-length nor chunks, so the connection cannot be kept")]
    Unframed,
    /// A broken chunk.
    #[error("a chunk of the answer's body is malformed")]
    Chunk,
}

enum Framing {
    None,
    Length(usize),
    Chunks,
}

/// Cuts one answer from the front of `buffer`; also says how many bytes it took. `None`: more
/// bytes are needed. Interim answers (1xx) are skipped.
pub fn cut(buffer: &[u8]) -> Result<Option<(Answer, usize)>, Malformed> {
    let mut skipped = 0;
    loop {
        let rest = buffer.get(skipped..).unwrap_or_default();
        let Some((answer, taken)) = cut_one(rest)? else {
            return Ok(None);
        };
        skipped += taken;
        if answer.status >= 200 {
            return Ok(Some((answer, skipped)));
        }
    }
}

fn cut_one(buffer: &[u8]) -> Result<Option<(Answer, usize)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let start = match head.parse(buffer).map_err(Malformed::Head)? {
        httparse::Status::Complete(start) => start,
        httparse::Status::Partial if buffer.len() > HEAD_LIMIT => return Err(Malformed::LongHead),
        httparse::Status::Partial => return Ok(None),
    };
    let status = head.code.unwrap_or(0);
    let mut keeps = head.version != Some(0);
    let mut length = None;
    let mut chunked = false;
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or("").trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            let this: u64 = value.parse().map_err(|_| Malformed::Length)?;
            if this > BODY_LIMIT || length.is_some_and(|other| other != this) {
                return Err(Malformed::Length);
            }
            length = Some(this);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.to_ascii_lowercase().ends_with("chunked");
        } else if header.name.eq_ignore_ascii_case("connection") {
            if value.eq_ignore_ascii_case("close") {
                keeps = false;
            } else if value.eq_ignore_ascii_case("keep-alive") {
                keeps = true;
            }
        }
    }
    let framing = match (status, chunked, length) {
        (100..=199 | 204 | 304, _, _) => Framing::None,
        (_, true, _) => Framing::Chunks,
        (_, false, Some(length)) => {
            Framing::Length(usize::try_from(length).map_err(|_| Malformed::Length)?)
        }
        (_, false, None) => return Err(Malformed::Unframed),
    };
    let rest = buffer.get(start..).unwrap_or_default();
    let (body, taken) = match framing {
        Framing::None => (Vec::new(), 0),
        Framing::Length(length) => match rest.get(..length) {
            Some(body) => (body.to_vec(), length),
            None => return Ok(None),
        },
        Framing::Chunks => match join_chunks(rest)? {
            Some(joined) => joined,
            None => return Ok(None),
        },
    };
    let answer = Answer {
        status,
        body,
        keeps,
    };
    Ok(Some((answer, start + taken)))
}

/// Joins the chunks of a body; also says how many bytes they and the trailer took.
fn join_chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let (line, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Malformed::Chunk),
        };
        at += line;
        if size == 0 {
            // The trailer: header lines up to an empty one.
            let trailer = bytes.get(at..).unwrap_or_default();
            let mut headers = [httparse::EMPTY_HEADER; HEADERS];
            return match httparse::parse_headers(trailer, &mut headers) {
                Ok(httparse::Status::Complete((taken, _))) => Ok(Some((body, at + taken))),
                Ok(httparse::Status::Partial) => Ok(None),
                Err(_) => Err(Malformed::Chunk),
            };
        }
        if size.saturating_add(body.len() as u64) > BODY_LIMIT {
            return Err(Malformed::Length);
        }
        let size = usize::try_from(size).map_err(|_| Malformed::Length)?;
        let Some(chunk) = bytes.get(at..at + size) else {
            return Ok(None);
        };
        match bytes.get(at + size..at + size + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(Malformed::Chunk),
            None => return Ok(None),
        }
        body.extend_from_slice(chunk);
        at += size + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> (Answer, usize) {
        cut(bytes).expect("well-formed").expect("whole")
    }

    #[test]
    fn every_prefix_of_an_answer_needs_more_and_the_whole_is_cut_exactly() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        ] {
            for end in 0..text.len() {
                assert_eq!(cut(&text.as_bytes()[..end]), Ok(None), "{end} of {text:?}");
            }
            let followed = format!("{text}HTTP/1.1 404 Not Found\r\n");
            let (answer, taken) = whole(followed.as_bytes());
            assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
            assert!(answer.keeps);
            assert_eq!(taken, text.len());
        }
    }

    #[test]
    fn what_cannot_be_checked_is_an_error_that_says_why() {
        let unframed = b"HTTP/1.1 200 OK\r\n\r\nhello";
        assert_eq!(cut(unframed), Err(Malformed::Unframed));
        let two = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello";
        assert_eq!(cut(two), Err(Malformed::Length));
        let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
        assert_eq!(cut(huge), Err(Malformed::Length));
        let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n";
        assert_eq!(cut(chunk), Err(Malformed::Chunk));
        assert!(matches!(
            cut(b"220 smtp ready\r\n"),
            Err(Malformed::Head(_))
        ));
    }

    #[test]
    fn an_answer_that_ends_the_connection_is_seen() {
        let (answer, _) = whole(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        assert!(!answer.keeps && answer.body.is_empty());
        assert!(
            !whole(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
                .0
                .keeps
        );
    }
}
