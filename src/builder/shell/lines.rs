//! Bytes into lines that anybody can be shown: bounded, text, nothing that moves a cursor or hides what was written.
//!
//! Never waits, and never holds more than one line.

/// Bytes of a line, at most; what is beyond is dropped.
const LONGEST: usize = 8 << 10;

/// Stands for what was cut off.
const CUT: &str = "…";

/// One stream of output, taken apart.
#[derive(Default)]
pub(super) struct Lines {
    held: Vec<u8>,
    /// More came than is kept of a line.
    longer: bool,
    /// The line before ended in a carriage return, which a line feed may follow.
    returned: bool,
}

impl Lines {
    /// Gives each line that is whole to `on_line`. A carriage return ends a line too: progress bars know no other end.
    pub(super) fn take(&mut self, mut data: &[u8], on_line: &mut impl FnMut(&str)) {
        while let Some(end) = data.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.hold(&data[..end]);
            match data[end] {
                b'\n' if self.is_empty() && self.returned => self.returned = false,
                b'\n' => self.emit(on_line),
                _ if self.is_empty() => {}
                _ => {
                    self.emit(on_line);
                    self.returned = true;
                }
            }
            data = &data[end + 1..];
        }
        self.hold(data);
    }

    /// Gives the last line, which nothing ended.
    pub(super) fn finish(&mut self, on_line: &mut impl FnMut(&str)) {
        if !self.is_empty() {
            self.emit(on_line);
        }
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn hold(&mut self, data: &[u8]) {
        let room = LONGEST - self.held.len();
        self.longer |= data.len() > room;
        self.held.extend_from_slice(&data[..data.len().min(room)]);
        self.returned &= data.is_empty();
    }

    fn emit(&mut self, on_line: &mut impl FnMut(&str)) {
        let mut line = plain(&String::from_utf8_lossy(&self.held));
        if self.longer || line.len() > LONGEST {
            line.truncate(line.floor_char_boundary(LONGEST - CUT.len()));
            line.push_str(CUT);
        }
        on_line(&line);
        self.held.clear();
        (self.longer, self.returned) = (false, false);
    }
}

/// The text without what a terminal would obey; a tab is a space.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(letter) = rest.next() {
        match letter {
            '\u{1b}' => skip_sequence(&mut rest),
            '\t' => plain.push(' '),
            letter if letter.is_control() || turns_direction(letter) => {}
            letter => plain.push(letter),
        }
    }
    plain
}

/// What follows an escape: a sequence with parameters (colours, cursor), a string (titles, links), or one character.
fn skip_sequence(rest: &mut std::str::Chars<'_>) {
    // What stands before the last character of a short sequence.
    let first = rest.find(|letter| !matches!(letter, ' '..='/'));
    match first {
        Some('[') => _ = rest.find(|letter| matches!(letter, '\u{40}'..='\u{7e}')),
        Some(']') if rest.find(|letter| matches!(letter, '\u{07}' | '\u{1b}')) == Some('\u{1b}') => _ = rest.next(),
        _ => {}
    }
}

/// Marks that turn the direction of text, and separators that only some readers take for the end of a line.
fn turns_direction(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut told) = (Lines::default(), Vec::new());
        pieces.iter().for_each(|piece| lines.take(piece, &mut |line| told.push(line.to_owned())));
        lines.finish(&mut |line| told.push(line.to_owned()));
        told
    }

    #[test]
    fn lines_end_where_they_end_whatever_the_pieces() {
        assert_eq!(lines(&[b"on", b"e\n\ntwo", b"\nthree"]), ["one", "", "two", "three"]);
        assert_eq!(lines(&[b"dos\r", b"\n\r\nend\r\n"]), ["dos", "", "end"]);
        assert_eq!(lines(&[b"10 %\r20 %\r\rdone\n"]), ["10 %", "20 %", "done"]);
        assert!(lines(&[b""]).is_empty());
    }

    #[test]
    fn what_a_terminal_would_obey_is_left_out() {
        assert_eq!(lines(&[b"\x1b[1;31mred\x1b[0m\x07 \x1b]0;title\x07a\tb\x1b]8;;x\x1b\\c\x1b(B\x00"]), ["red a bc"]);
        assert_eq!(lines(&["a\u{202e}b\u{2028}c\u{9b}d".as_bytes()]), ["abcd"]);
        assert_eq!(lines(&[b"\x1b["]), [""]);
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        assert_eq!(lines(&[b"\xff\xfe ok \xc3"]), ["\u{fffd}\u{fffd} ok \u{fffd}"]);
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let long = "ä".repeat(10_000) + "\nnext\n";
        let told = lines(&[long.as_bytes()]);
        assert!(told[0].len() <= LONGEST && told[0].ends_with("ä…"), "{}", told[0].len());
        assert_eq!(told[1], "next");
        let invalid = vec![0xff; LONGEST];
        assert!(lines(&[&invalid])[0].len() <= LONGEST, "replacements are longer than what they replace");
    }
}
