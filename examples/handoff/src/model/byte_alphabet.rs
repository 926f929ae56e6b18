//! GPT-2's trick: 256 printable characters that stand for the 256 bytes inside a BPE vocabulary.

/// The byte that a character of a vocabulary entry stands for.
#[must_use]
pub fn byte_of(character: char) -> Option<u8> {
    (0..=u8::MAX).find(|&byte| character_of(byte) == character)
}

/// The character that stands for a byte: itself where it is printable, else the next one from U+0100 on.
#[must_use]
pub fn character_of(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let earlier = (0..byte).filter(|&other| !is_printable(other)).count();
    u32::try_from(earlier).ok().and_then(|earlier| char::from_u32(256 + earlier)).unwrap_or('\u{fffd}')
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_is_g_with_a_dot_and_all_bytes_return() {
        assert_eq!(character_of(b' '), 'Ġ');
        assert_eq!(character_of(b'\n'), 'Ċ');
        for byte in 0..=u8::MAX {
            assert_eq!(byte_of(character_of(byte)), Some(byte));
        }
    }
}
