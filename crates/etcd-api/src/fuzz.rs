//! Doors for the fuzz targets: what clients of etcd's API send in other forms than gRPC's own, and their tokens.

use crate::{auth, calls, gateway, proxy};

/// A request of the JSON gateway, or an answer that becomes JSON: the first byte says which call, the second which of the
/// two.
///
/// # Panics
/// When what was read, and written, is not read again.
pub fn gateway(data: &[u8]) {
    gateway::any_message(data);
}

/// A message that a proxy with a namespace passes on: the first byte says which call.
pub fn namespace(data: &[u8]) {
    proxy::any_message(data);
}

/// A signed token, or the claims of one that is signed here.
pub fn token(data: &[u8]) {
    auth::any_token(data);
}

/// The frames of a gRPC body, in pieces of as many bytes as the first byte says.
///
/// # Panics
/// When pieces are another matter than the whole.
pub fn frames(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else { return };
    let whole = calls::messages_in(data, data.len().max(1));
    assert_eq!(calls::messages_in(data, usize::from(*piece).max(1)), whole);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;

    fn play(name: &str, target: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let mut inputs = 0;
        for file in std::fs::read_dir(folder).expect("corpus") {
            let data = std::fs::read(file.expect("a file").path()).expect("bytes");
            (0..=data.len()).for_each(|end| target(&data[..end]));
            inputs += 1 + data.len();
        }
        writeln!(std::io::stderr(), "fuzz corpus {name}: {inputs} inputs").expect("printed");
    }

    #[test]
    fn the_fuzz_corpus_is_decoded() {
        play("gateway", super::gateway);
        play("namespace", super::namespace);
        play("token", super::token);
        play("frames", super::frames);
    }
}
