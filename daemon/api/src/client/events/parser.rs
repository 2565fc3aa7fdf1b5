//! Server-sent events out of bytes that come in pieces cut anywhere, as the HTML standard says
//! ("Interpreting an event stream"). Knows nothing of what the events mean.

use std::collections::VecDeque;

/// No event of the API is larger.
const MAX_EVENT: usize = 1 << 20;
/// May stand at the very beginning of a stream.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// An event that is larger than any of the API's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than 1 MiB")]
pub(super) struct TooLarge;

/// One event as it was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Empty when none was said.
    pub(super) kind: Vec<u8>,
    /// Its lines, joined by newlines.
    pub(super) data: Vec<u8>,
    /// Its own id, or the last one told before it.
    pub(super) id: Vec<u8>,
}

/// Where in a stream we are.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// Events that came whole and were not taken yet.
    pub(super) told: VecDeque<Told>,
    /// What came of the line that is not whole yet.
    line: Vec<u8>,
    /// The line before ended with a carriage return: a newline now belongs to it.
    after_return: bool,
    begun: bool,
    kind: Vec<u8>,
    /// Each line of it with a newline behind.
    data: Vec<u8>,
    id: Vec<u8>,
}

impl Parser {
    /// Takes the next bytes of the stream. An event that is not whole when the stream ends is
    /// never told.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), TooLarge> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_return) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (start, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            let size = self.line.len() + self.kind.len() + self.data.len() + self.id.len();
            if size + start.len() > MAX_EVENT {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(start);
            let Some((end, rest)) = rest.split_first() else { return Ok(()) };
            self.after_return = *end == b'\r';
            self.end_line();
            bytes = rest;
        }
        Ok(())
    }

    fn end_line(&mut self) {
        let mut whole = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.begun, true) && whole.starts_with(BOM) {
            whole.drain(..BOM.len());
        }
        if whole.is_empty() {
            self.end_event();
        } else {
            let colon = whole.iter().position(|byte| *byte == b':');
            let (field, value) = whole.split_at(colon.unwrap_or(whole.len()));
            let value = value.strip_prefix(b":").unwrap_or(value);
            self.field(field, value.strip_prefix(b" ").unwrap_or(value));
        }
        whole.clear();
        self.line = whole;
    }

    fn field(&mut self, field: &[u8], value: &[u8]) {
        match field {
            b"event" => self.kind = value.to_vec(),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"id" if !value.contains(&0) => self.id = value.to_vec(),
            // A comment (its field is empty), `retry`, or a field of a later standard.
            _ => (),
        }
    }

    fn end_event(&mut self) {
        let (kind, mut data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
        // Without any data it is no event.
        if data.pop().is_some() {
            self.told.push_back(Told { kind, data, id: self.id.clone() });
        }
    }
}

/// Reads a stream whole, and in pieces of these sizes.
#[cfg(fuzzing)]
pub(crate) fn reread(stream: &[u8], sizes: &[u8]) {
    let mut whole = Parser::default();
    let outcome = whole.take(stream);
    let mut pieces = Parser::default();
    let (mut rest, mut sizes) = (stream, sizes.iter().cycle());
    let mut cut = Ok(());
    while !rest.is_empty() && cut.is_ok() {
        let size = sizes.next().map_or(1, |size| usize::from(*size).max(1)).min(rest.len());
        cut = pieces.take(&rest[..size]);
        rest = &rest[size..];
    }
    assert_eq!(outcome, cut);
    if outcome.is_ok() {
        assert_eq!(whole.told, pieces.told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: &str, data: &str, id: &str) -> Told {
        Told { kind: kind.into(), data: data.into(), id: id.into() }
    }

    fn read(pieces: &[&[u8]]) -> Vec<Told> {
        let mut parser = Parser::default();
        pieces.iter().for_each(|piece| parser.take(piece).expect("small enough"));
        parser.told.into()
    }

    fn table() -> Vec<(&'static str, Vec<Told>)> {
        vec![
            ("", vec![]),
            ("event: begin\nid: 7\ndata: {}\n\n", vec![told("begin", "{}", "7")]),
            ("event:begin\r\nid:7\r\ndata:{}\r\n\r\n", vec![told("begin", "{}", "7")]),
            ("event: begin\rid: 7\rdata: {}\r\r", vec![told("begin", "{}", "7")]),
            // All three ends of a line in one stream.
            ("data: a\r\ndata: b\rdata: c\n\r\n", vec![told("", "a\nb\nc", "")]),
            // A lone newline after a carriage return and newline ends the event.
            ("data: a\r\n\ndata: b\n\r", vec![told("", "a", ""), told("", "b", "")]),
            ("data: a\n\rdata: b\r\r\n", vec![told("", "a", ""), told("", "b", "")]),
            (": here\n\n:\n\n:x: y\ndata: a\n\n", vec![told("", "a", "")]),
            ("data\n\ndata:\ndata\n\n", vec![told("", "", ""), told("", "\n", "")]),
            ("data:  two\ndata:\tx: y\n\n", vec![told("", " two\n\tx: y", "")]),
            // No data, no event; but the id is kept, and the kind is not.
            ("event: x\nid: 1\n\ndata: a\n\n", vec![told("", "a", "1")]),
            ("id: 1\ndata: a\n\nid\ndata: b\n\n", vec![told("", "a", "1"), told("", "b", "")]),
            ("id: 1\nid: a\0b\ndata: a\n\n", vec![told("", "a", "1")]),
            ("event: x\nevent: y\nretry: 3\nlater: z\ndata: é\n\n", vec![told("y", "é", "")]),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", vec![told("", "a", "")]),
            // What is not whole is not told.
            ("data: a\n\ndata: b\n", vec![told("", "a", "")]),
            ("data: a\n\ndata: b", vec![told("", "a", "")]),
        ]
    }

    #[test]
    fn a_stream_says_the_same_however_it_is_cut() {
        for (text, expected) in table() {
            let bytes = text.as_bytes();
            assert_eq!(read(&[bytes]), expected, "{text:?}");
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single), expected, "{text:?} byte by byte");
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(read(&pieces), expected, "{text:?} cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn an_event_of_a_mebibyte_ends_the_stream_and_smaller_ones_never_do() {
        let endless = [b"data: ".as_slice(), &vec![b'x'; MAX_EVENT]].concat();
        assert_eq!(Parser::default().take(&endless), Err(TooLarge));
        let lines = b"data: xxxxxxxxxxxxxxxx\n".repeat(MAX_EVENT / 16);
        assert_eq!(Parser::default().take(&lines), Err(TooLarge));
        let mut parser = Parser::default();
        for _ in 0..5 {
            let large = [b"data: ".as_slice(), &vec![b'x'; MAX_EVENT - 64], b"\n\n"].concat();
            parser.take(&large).expect("small enough");
            // Comments that come for days are no event.
            parser.take(&b": here\n\n".repeat(1 << 18)).expect("comments");
        }
        assert_eq!(parser.told.len(), 5);
    }
}
