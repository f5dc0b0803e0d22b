//! The protobuf wire format: reading fields in order, writing tags and length-delimited parts.

use super::CodecError;

/// Why bytes are no message. Read in every field's way: it is small, and dropping it is nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WireError {
    /// The message ends in the middle of a field.
    Truncated,
    Malformed(&'static str),
}

impl From<WireError> for CodecError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Truncated => Self::Truncated,
            WireError::Malformed(why) => Self::Wire(why),
        }
    }
}

/// A field's payload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads one message field by field.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(byte.into())
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(WireError::Truncated)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Malformed("a varint is longer than ten bytes"))
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let end = self.at.checked_add(length).ok_or(WireError::Truncated)?;
        let part = self.bytes.get(self.at..end).ok_or(WireError::Truncated)?;
        self.at = end;
        Ok(part)
    }

    /// The next (field number, payload); none at the end.
    #[inline]
    pub(crate) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, WireError> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number =
            u32::try_from(tag >> 3).map_err(|_| WireError::Malformed("a field number is too large"))?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().expect("took 8 bytes"))),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().expect("took 4 bytes"))),
            _ => return Err(WireError::Malformed("a wire type is not known")),
        };
        Ok(Some((number, wire)))
    }
}

impl<'a> Wire<'a> {
    #[inline]
    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(WireError::Malformed("a length-delimited field has another wire type")),
        }
    }

    #[inline]
    pub(crate) fn varint(self) -> Result<u64, WireError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(WireError::Malformed("an integer field has another wire type")),
        }
    }

    pub(crate) fn double(self) -> Result<f64, WireError> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(WireError::Malformed("a floating-point field has another wire type")),
        }
    }
}

/// The first length-delimited field with this number.
pub(crate) fn first_bytes(message: &[u8], number: u32) -> Result<Option<&[u8]>, WireError> {
    let mut reader = Reader::new(message);
    while let Some((found, wire)) = reader.field()? {
        if found == number {
            return wire.bytes().map(Some);
        }
    }
    Ok(None)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub(crate) fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value as u64);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_varint(out, u64::from(number) << 3 | 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

/// Writes a length-delimited field whose content `write` appends. Its length is not known before, so one byte is
/// kept for it and the content moved when that is too little.
pub(crate) fn put_part(
    out: &mut Vec<u8>,
    number: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    put_varint(out, u64::from(number) << 3 | 2);
    let at = out.len();
    out.push(0);
    write(out)?;
    let length = (out.len() - at - 1) as u64;
    let more = varint_len(length) - 1;
    if more > 0 {
        let end = out.len();
        out.resize(end + more, 0);
        out.copy_within(at + 1..end, at + 1 + more);
    }
    let mut value = length;
    for slot in &mut out[at..at + more] {
        *slot = value as u8 | 0x80;
        value >>= 7;
    }
    out[at + more] = value as u8;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_every_length_read_back() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let mut out = Vec::new();
            put_part(&mut out, 7, |o| {
                o.resize(o.len() + length, 9);
                Ok(())
            })
            .unwrap();
            let mut plain = Vec::new();
            put_bytes(&mut plain, 7, &vec![9; length]);
            assert_eq!(out, plain, "{length}");
        }
    }

    #[test]
    fn truncated_messages_are_refused() {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, b"hello");
        for end in 1..out.len() {
            assert!(Reader::new(&out[..end]).field().is_err(), "{end}");
        }
    }

    #[test]
    fn negative_integers_take_ten_bytes() {
        let mut out = Vec::new();
        put_int(&mut out, 1, -1);
        assert_eq!(out.len(), 11);
        let (_, wire) = Reader::new(&out).field().unwrap().unwrap();
        assert_eq!(wire.varint().unwrap() as i64, -1);
    }
}
