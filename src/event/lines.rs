//! A body of lines that comes in pieces, wherever these are cut: which of its lines are complete, and how many of them make one step.
//!
//! Held are the lines of one step, and what came behind them with the same piece. A line without anything in it is none.

use bytes::{Buf, BytesMut};
use memchr::memchr;

/// What lines may be.
#[derive(Debug, Clone, Copy)]
pub struct LineBounds {
    /// Bytes of a line, without its break.
    pub line_bytes: usize,
    /// Lines of a step.
    pub step_lines: usize,
    /// Bytes of a step, breaks and all; a single line may be a little over it by its break.
    pub step_bytes: usize,
}

/// A line is longer than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line has {bytes} bytes or more")]
pub struct LineTooLong {
    /// Its place among the lines that are held, from 0.
    pub item: usize,
    /// How many bytes of it came so far.
    pub bytes: usize,
}

/// Takes pieces, gives lines.
#[derive(Debug)]
pub struct Lines {
    bounds: LineBounds,
    buffer: BytesMut,
    /// Up to here the step's lines reach, the last break included.
    step: usize,
    /// How many these are.
    items: usize,
    /// From the step's end up to here there is no break.
    looked: usize,
    full: bool,
}

impl Lines {
    /// Nothing has come.
    #[must_use]
    pub fn new(bounds: LineBounds) -> Self {
        Self { bounds, buffer: BytesMut::new(), step: 0, items: 0, looked: 0, full: false }
    }

    /// A piece has come; [`look`](Self::look) finds what is in it.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// No more pieces come: what is behind the last break is a line too.
    pub fn end(&mut self) {
        if self.step < self.buffer.len() {
            self.buffer.extend_from_slice(b"\n");
        }
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there is a complete line.
    #[must_use]
    pub fn any(&self) -> bool {
        self.items > 0
    }

    /// Whether there are as many lines as a step may have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Finds complete lines in what has come, as many as one step may have.
    ///
    /// # Errors
    /// A line that is too long, complete or not; of the lines before it none is given out any more.
    pub fn look(&mut self) -> Result<(), LineTooLong> {
        while !self.full {
            let found = memchr(b'\n', &self.buffer[self.looked..]).map(|at| self.looked + at);
            let end = found.unwrap_or(self.buffer.len());
            if self.items > 0 && end >= self.bounds.step_bytes {
                // The line belongs to the next step.
                self.full = true;
                return Ok(());
            }
            let line = &self.buffer[self.step..end];
            // Of a line that is not complete the last byte may be a part of its break.
            let bytes =
                if found.is_none() || line.ends_with(b"\r") { line.len().saturating_sub(1) } else { line.len() };
            if bytes > self.bounds.line_bytes {
                return Err(LineTooLong { item: self.items, bytes });
            }
            if found.is_none() {
                self.looked = end;
                return Ok(());
            }
            self.complete(end);
        }
        Ok(())
    }

    /// The line that ends here belongs to the step.
    fn complete(&mut self, end: usize) {
        let blank = self.buffer[self.step..end].trim_ascii().is_empty();
        (self.step, self.looked) = (end + 1, end + 1);
        if !blank {
            self.items += 1;
            self.full = self.items >= self.bounds.step_lines;
        } else if self.items == 0 {
            // Whoever sends nothing but breaks fills no step.
            self.buffer.advance(self.step);
            (self.step, self.looked) = (0, 0);
        }
    }

    /// The step's lines, and how many there are.
    pub fn take(&mut self) -> (BytesMut, usize) {
        // What is behind them goes on by itself, so that a large step's place is not kept for half a line.
        let rest = BytesMut::from(&self.buffer[self.step..]);
        let mut lines = std::mem::replace(&mut self.buffer, rest);
        lines.truncate(self.step);
        (self.step, self.looked, self.full) = (0, 0, false);
        (lines, std::mem::take(&mut self.items))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: LineBounds = LineBounds { line_bytes: 8, step_lines: 3, step_bytes: 16 };

    /// The lines as they are where nothing is cut, up to the first that is too long.
    fn whole(body: &[u8]) -> (Vec<Vec<u8>>, bool) {
        let mut lines = Vec::new();
        for line in body.split(|byte| *byte == b'\n') {
            if line.strip_suffix(b"\r").unwrap_or(line).len() > BOUNDS.line_bytes {
                return (lines, true);
            }
            if !line.trim_ascii().is_empty() {
                lines.push(line.trim_ascii().to_vec());
            }
        }
        (lines, false)
    }

    fn step(lines: &mut Lines, found: &mut Vec<Vec<u8>>) {
        let (bytes, items) = lines.take();
        assert!(items <= BOUNDS.step_lines && (items <= 1 || bytes.len() <= BOUNDS.step_bytes), "{items} {bytes:?}");
        let before = found.len();
        let all = bytes[..].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        found.extend(all.filter(|line| !line.is_empty()).map(<[u8]>::to_vec));
        assert_eq!(found.len() - before, items);
    }

    /// All that comes of a body in pieces, each step taken as soon as it is full, or as soon as it is there; and where a line was too long.
    fn cut(pieces: &[&[u8]], eager: bool) -> (Vec<Vec<u8>>, Option<usize>) {
        let (mut lines, mut found) = (Lines::new(BOUNDS), Vec::new());
        for piece in pieces.iter().copied().map(Some).chain([None]) {
            match piece {
                Some(piece) => lines.push(piece),
                None => lines.end(),
            }
            loop {
                if let Err(error) = lines.look() {
                    return (found.clone(), Some(found.len() + error.item));
                }
                if !lines.is_full() && !(lines.any() && (eager || piece.is_none())) {
                    break;
                }
                step(&mut lines, &mut found);
            }
        }
        assert_eq!(lines.held(), 0);
        (found, None)
    }

    #[test]
    fn a_line_may_be_as_long_as_it_may_be_whatever_its_break() {
        for (body, long) in
            [("12345678", false), ("12345678\r\n", false), ("123456789", true), ("1\n12345678\r", false)]
        {
            assert_eq!(cut(&[body.as_bytes()], false).1.is_some(), long, "{body:?}");
        }
        assert_eq!(cut(&[b"1\n2\n1234", b"567890"], true).1, Some(2), "it is not waited for to its end");
    }

    #[test]
    fn what_is_no_line_yet_is_held_and_breaks_alone_are_not() {
        let mut lines = Lines::new(BOUNDS);
        lines.push(b"\n \r\n\n12");
        lines.look().unwrap();
        assert!(!lines.any());
        assert_eq!(lines.held(), 2);
        lines.push(b"3\n45");
        lines.look().unwrap();
        assert_eq!(lines.take(), (BytesMut::from(&b"123\n"[..]), 1));
        assert_eq!(lines.held(), 2);
    }

    proptest! {
        #[test]
        fn lines_are_the_same_wherever_a_body_is_cut(
            body in proptest::collection::vec(prop_oneof![4 => Just(b'x'), 1 => Just(b'\n'), 1 => Just(b'\r'), 1 => Just(b' '), 1 => any::<u8>()], 0..120),
            cuts in proptest::collection::vec(0_usize..120, 0..20),
            eager in any::<bool>(),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(body.len())).chain([0, body.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
            let (expected, long) = whole(&body);
            let (found, fault) = cut(&pieces, eager);
            prop_assert_eq!(fault, long.then_some(expected.len()));
            // The step of a line that is too long is not given out.
            prop_assert!(expected.starts_with(&found) && (long || found.len() == expected.len()), "{:?} {:?}", found, expected);
        }
    }
}
