//! The regular expressions of Nova's `name` filter, as far as clients use them.
//!
//! Literals, `.`, `[…]`, groups, `* + ?`, `^ $` and escapes; Nova hands `|` to its database as a letter. Tells whether the pattern occurs anywhere, as the
//! database does; a pattern that is one whole name is recognised, so that it need not be tried on every server.

/// A parsed expression.
#[derive(Debug)]
pub(crate) struct Pattern(Vec<Piece>);

#[derive(Debug)]
enum Atom {
    Char(char),
    Any,
    Set { chars: Vec<(char, char)>, negated: bool },
    Group(Vec<Piece>),
    Start,
    End,
}

#[derive(Debug)]
struct Piece {
    atom: Atom,
    least: usize,
    most: usize,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        let pieces = pieces(&chars, &mut at)?;
        (at == chars.len()).then_some(Self(pieces))
    }

    /// Whether it occurs in the text.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        (0..=text.len()).any(|start| sequence(&self.0, &text, start, &mut |_| true))
    }

    /// The one text that it matches, when it is `^text$`.
    pub(crate) fn literal(&self) -> Option<String> {
        let [first, middle @ .., last] = self.0.as_slice() else { return None };
        if !matches!((&first.atom, &last.atom), (Atom::Start, Atom::End)) {
            return None;
        }
        let char_of = |piece: &Piece| match piece {
            Piece { atom: Atom::Char(char), least: 1, most: 1 } => Some(*char),
            _ => None,
        };
        middle.iter().map(char_of).collect()
    }
}

fn pieces(chars: &[char], at: &mut usize) -> Option<Vec<Piece>> {
    let mut all = Vec::new();
    while chars.get(*at).is_some_and(|char| *char != ')') {
        all.push(piece(chars, at)?);
    }
    Some(all)
}

fn piece(chars: &[char], at: &mut usize) -> Option<Piece> {
    let char = *chars.get(*at)?;
    *at += 1;
    let atom = match char {
        '.' => Atom::Any,
        '^' => Atom::Start,
        '$' => Atom::End,
        '[' => set(chars, at)?,
        '(' => {
            if chars.get(*at..*at + 2) == Some(&['?', ':']) {
                *at += 2;
            }
            let inner = pieces(chars, at)?;
            (chars.get(*at) == Some(&')')).then_some(())?;
            *at += 1;
            Atom::Group(inner)
        }
        '\\' => {
            let escaped = *chars.get(*at)?;
            *at += 1;
            match escaped {
                'd' => Atom::Set { chars: vec![('0', '9')], negated: false },
                'w' => Atom::Set { chars: vec![('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')], negated: false },
                escaped => Atom::Char(escaped),
            }
        }
        '*' | '+' | '?' => return None,
        char => Atom::Char(char),
    };
    let (least, most) = match chars.get(*at) {
        Some('*') => (0, usize::MAX),
        Some('+') => (1, usize::MAX),
        Some('?') => (0, 1),
        _ => return Some(Piece { atom, least: 1, most: 1 }),
    };
    *at += 1;
    Some(Piece { atom, least, most })
}

fn set(chars: &[char], at: &mut usize) -> Option<Atom> {
    let negated = chars.get(*at) == Some(&'^');
    *at += usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        let first = *chars.get(*at)?;
        *at += 1;
        match first {
            ']' if !ranges.is_empty() => return Some(Atom::Set { chars: ranges, negated }),
            first => match (chars.get(*at), chars.get(*at + 1)) {
                (Some('-'), Some(&last)) if last != ']' => {
                    *at += 2;
                    ranges.push((first, last));
                }
                _ => ranges.push((first, first)),
            },
        }
    }
}

fn sequence(pieces: &[Piece], text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    let Some((piece, rest)) = pieces.split_first() else { return then(at) };
    repeat(piece, 0, text, at, &mut |end| sequence(rest, text, end, then))
}

fn repeat(piece: &Piece, done: usize, text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    let more = done < piece.most
        && one(&piece.atom, text, at, &mut |end| (end > at || done == 0) && repeat(piece, done + 1, text, end, then));
    more || (done >= piece.least && then(at))
}

fn one(atom: &Atom, text: &[char], at: usize, then: &mut dyn FnMut(usize) -> bool) -> bool {
    let next = text.get(at);
    let fits = match atom {
        Atom::Start => return at == 0 && then(at),
        Atom::End => return at == text.len() && then(at),
        Atom::Group(inner) => return sequence(inner, text, at, then),
        Atom::Any => next.is_some(),
        Atom::Char(char) => next == Some(char),
        Atom::Set { chars, negated } => {
            next.is_some_and(|next| chars.iter().any(|(first, last)| (first..=last).contains(&next)) != *negated)
        }
    };
    fits && then(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_a_database_does() {
        for (pattern, text, expected) in [
            ("web", "my-web-1", true),
            ("^web", "my-web-1", false),
            ("^web-[0-9]+$", "web-12", true),
            ("^web-[0-9]+$", "web-12a", false),
            ("^(ab)c?$", "abc", true),
            ("^(a|b)$", "b", false),
            ("^(a|b)$", "a|b", true),
            (".*", "", true),
            ("a.c", "abc", true),
            ("^(ab)*$", "ababab", true),
            ("[^a]b", "ab", false),
            ("a\\.b", "a.b", true),
            ("a\\.b", "axb", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().is_in(text), expected, "{pattern} in {text}");
        }
        assert!(Pattern::parse("(a").is_none());
        assert!(Pattern::parse("*a").is_none());
    }

    #[test]
    fn knows_a_whole_name() {
        assert_eq!(Pattern::parse("^np-1\\.x$").unwrap().literal().as_deref(), Some("np-1.x"));
        assert_eq!(Pattern::parse("^np.1$").unwrap().literal(), None);
        assert_eq!(Pattern::parse("np").unwrap().literal(), None);
    }
}
