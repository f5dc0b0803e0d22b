//! A door for the fuzz targets: what members say to each other, and keep beside the state.

use bytes::Bytes;

use crate::consensus;

/// Reads bytes as everything that they may be; what is read, and written, is read again.
///
/// # Panics
/// When it is not.
pub fn peer(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(entry) = consensus::decode_entry(bytes.clone()) {
        assert_eq!(consensus::decode_entry(consensus::encode_entry(&entry)).expect("an entry"), entry);
    }
    if let Ok(vote) = consensus::decode_vote(bytes.clone()) {
        assert_eq!(consensus::decode_vote(consensus::encode_vote(&vote)).expect("a vote"), vote);
    }
    if let Ok(id) = consensus::decode_log_id(bytes.clone()) {
        assert_eq!(consensus::decode_log_id(consensus::encode_log_id(&id)).expect("an id"), id);
    }
    if let Ok(beside) = consensus::decode_beside(Some(bytes)) {
        let again = consensus::decode_beside(Some(consensus::encode_beside(&beside))).expect("a membership");
        assert_eq!(again.membership, beside.membership);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    #[test]
    fn the_fuzz_corpus_is_decoded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/peer");
        let mut inputs = 0;
        for file in std::fs::read_dir(folder).expect("corpus") {
            super::peer(&std::fs::read(file.expect("a file").path()).expect("bytes"));
            inputs += 1;
        }
        writeln!(std::io::stderr(), "fuzz corpus peer: {inputs} inputs").expect("printed");
    }
}
