//! Looking for bytes that JSON text cannot have as they are, a word of eight at a time.
//!
//! A word's *marks* are top bits of its bytes. The lowest mark is that of the first byte that is looked for; what is
//! marked behind it means nothing.

const BYTES: usize = size_of::<u64>();
/// Bytes that are looked at together in a long text.
const BLOCK: usize = 32;
const TOPS: u64 = each(0x80);
/// What stands behind a text in its last word: nobody looks for it.
const PADDING: u64 = each(b'a');

const fn each(byte: u8) -> u64 {
    0x0101_0101_0101_0101 * byte as u64
}

/// Marks, among other bits, bytes below one that is at most 0x80.
const fn below(word: u64, byte: u8) -> u64 {
    word.wrapping_sub(each(byte)) & !word
}

/// Marks, among other bits, bytes that are equal to one.
const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ each(byte), 1)
}

/// Marks, among other bits, what HTML or JavaScript could take for something else; 0xe2 begins what may be.
const fn html(word: u64) -> u64 {
    // `<` and `>` differ in one bit.
    equal(word | each(2), b'>') | equal(word, b'&') | equal(word, 0xe2)
}

/// What a JSON string of ASCII cannot have, and what is not ASCII.
pub(super) const fn not_plain(word: u64) -> u64 {
    // `"` and `&` differ in one bit, `<` and `>` too.
    let marks = equal(word | each(4), b'&') | equal(word | each(2), b'>') | equal(word, b'\\');
    (marks | below(word, b' ') | word) & TOPS
}

/// What a JSON string of UTF-8 cannot have.
pub(super) const fn to_escape(word: u64) -> u64 {
    (html(word) | equal(word, b'"') | equal(word, b'\\') | below(word, b' ')) & TOPS
}

/// What JSON without white space between its tokens cannot have, or only in its strings.
pub(super) const fn not_compact(word: u64) -> u64 {
    (html(word) | below(word, b' ' + 1)) & TOPS
}

/// What ends a run of bytes between the strings of JSON.
pub(super) const fn between_strings(word: u64) -> u64 {
    (html(word) | equal(word, b'"') | below(word, b' ' + 1)) & TOPS
}

/// What ends a run of bytes in a string of JSON that has its escapes.
pub(super) const fn in_string(word: u64) -> u64 {
    (html(word) | equal(word, b'"') | equal(word, b'\\')) & TOPS
}

/// The marks of all words of a few bytes.
#[inline]
fn all_marks<const N: usize>(bytes: &[u8; N], marks: impl Fn(u64) -> u64) -> u64 {
    let (words, _) = bytes.as_chunks::<BYTES>();
    words.iter().fold(0, |all, word| all | marks(u64::from_le_bytes(*word)))
}

/// The word of less than eight bytes.
#[inline]
fn short_word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(PADDING, |word, byte| word << 8 | u64::from(*byte))
}

/// How many bytes from the first on are not marked.
#[inline]
pub(super) fn run(bytes: &[u8], marks: impl Fn(u64) -> u64) -> usize {
    let first = |word: u64| Some(word).filter(|marks| *marks != 0).map(|m| m.trailing_zeros() as usize / 8);
    let (words, rest) = bytes.as_chunks::<BYTES>();
    for (index, word) in words.iter().enumerate() {
        if let Some(place) = first(marks(u64::from_le_bytes(*word))) {
            return index * BYTES + place;
        }
    }
    let place = first(marks(short_word(rest))).unwrap_or(rest.len());
    words.len() * BYTES + place
}

/// Whether no byte is marked.
#[inline]
pub(super) fn is_clean(bytes: &[u8], marks: impl Fn(u64) -> u64 + Copy) -> bool {
    let Some(last) = bytes.last_chunk::<BLOCK>() else { return run(bytes, marks) == bytes.len() };
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    blocks.iter().all(|block| all_marks(block, marks) == 0) && all_marks(last, marks) == 0
}

/// Appends a text that a JSON string can have as it is; false, and nothing is appended, for any other.
#[inline]
pub(super) fn append_plain(out: &mut Vec<u8>, text: &[u8]) -> bool {
    match text.len() {
        0 => true,
        1..4 => append_short(out, text),
        4..8 => append_ends::<4>(out, text),
        8..=16 => append_ends::<8>(out, text),
        17..=32 => append_ends::<16>(out, text),
        _ => {
            let plain = is_clean(text, not_plain);
            if plain {
                out.extend_from_slice(text);
            }
            plain
        }
    }
}

#[inline]
fn append_short(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let word = short_word(text);
    let plain = not_plain(word) == 0;
    if plain {
        let end = out.len() + text.len();
        out.extend_from_slice(&word.to_le_bytes());
        out.truncate(end);
    }
    plain
}

/// A text of `N` to `2 * N` bytes: its first and last `N`, which may overlap, are all of it.
#[inline]
fn append_ends<const N: usize>(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let (Some(first), Some(last)) = (text.first_chunk::<N>(), text.last_chunk::<N>()) else { return false };
    let plain = match (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        (Some(first), Some(last)) if N == 4 => {
            let halves = [u32::from_le_bytes(*first), u32::from_le_bytes(*last)].map(u64::from);
            not_plain(halves[0] | halves[1] << 32) == 0
        }
        _ => all_marks(first, not_plain) | all_marks(last, not_plain) == 0,
    };
    if plain {
        let end = out.len() + text.len();
        out.extend_from_slice(first);
        out.truncate(end - N);
        out.extend_from_slice(last);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marks, and what they are for, a byte at a time.
    type Meant = (fn(u64) -> u64, fn(u8) -> bool);

    const MEANT: [Meant; 5] = [
        (not_plain, |byte| !(0x20..0x80).contains(&byte) || b"\"\\<>&".contains(&byte)),
        (to_escape, |byte| byte < 0x20 || b"\"\\<>&\xe2".contains(&byte)),
        (not_compact, |byte| byte <= 0x20 || b"<>&\xe2".contains(&byte)),
        (between_strings, |byte| byte <= 0x20 || b"\"<>&\xe2".contains(&byte)),
        (in_string, |byte| b"\"\\<>&\xe2".contains(&byte)),
    ];

    #[test]
    fn every_byte_is_known_wherever_it_stands() {
        for (marks, meant) in MEANT {
            for (byte, other) in (0..=u8::MAX).flat_map(|byte| [(byte, b'x'), (byte, byte)]) {
                for len in 1..80 {
                    for at in [0, len / 2, len - 1] {
                        let mut text = vec![b'x'; len];
                        text[at] = byte;
                        text[len - 1] = if at == len - 1 { byte } else { other };
                        let expected = text.iter().position(|byte| meant(*byte));
                        assert_eq!(run(&text, marks), expected.unwrap_or(len), "{byte:#x} of {text:?}");
                        assert_eq!(is_clean(&text, marks), expected.is_none(), "{byte:#x} of {text:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_that_differ_by_a_borrow_are_not_taken_for_another() {
        for (marks, meant) in MEANT {
            for first in 0..=u8::MAX {
                for second in 0..=u8::MAX {
                    let text = [b'x', first, second, b'x'];
                    let expected = text.iter().position(|byte| meant(*byte)).unwrap_or(text.len());
                    assert_eq!(run(&text, marks), expected, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn plain_texts_of_every_length_are_appended_whole() {
        for len in 0..100 {
            let text: Vec<u8> = (b'A'..=b'Z').cycle().take(len).collect();
            let mut out = b"before".to_vec();
            assert!(append_plain(&mut out, &text));
            assert_eq!(out, [b"before", text.as_slice()].concat());
            for at in 0..len {
                let mut text = text.clone();
                text[at] = b'<';
                let mut out = b"before".to_vec();
                assert!(!append_plain(&mut out, &text), "{text:?}");
                assert_eq!(out, b"before");
            }
        }
    }
}
