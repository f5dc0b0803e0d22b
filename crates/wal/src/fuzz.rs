//! A door for the fuzz targets, which make logs that are damaged in more ways than their sums tell.

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::record::{self, Record};
use crate::replay::replay;
use crate::segment::{self, Folder};

/// Bytes of a segment.
const CAPACITY: usize = 4096;
/// Segments at most.
const MAX_SEGMENTS: u64 = 4;

/// Makes a log in an empty folder as `data` says, with sums that are right unless it says otherwise, and reads it twice:
/// what was read once is read again. Whether it was.
///
/// # Panics
/// When the second reading finds something else.
pub fn log(folder: &Path, data: &[u8]) -> bool {
    write(folder, data).expect("a folder that can be written");
    let read = || -> io::Result<_> {
        let replayed = replay(Folder::open(folder, CAPACITY)?.segments()?, CAPACITY)?;
        Ok((replayed.index.range(), replayed.index.meta().clone(), replayed.segments.len()))
    };
    match read() {
        Ok(first) => {
            assert_eq!(read().expect("it was read before"), first);
            true
        }
        Err(_) => false,
    }
}

fn write(folder: &Path, mut data: &[u8]) -> io::Result<()> {
    let mut files = vec![segment::header(1).to_vec()];
    let mut sequence = 0;
    while let [what, number, length, rest @ ..] = data {
        let (body, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        let segment = files.len() as u64;
        let Some(file) = files.last_mut() else { break };
        let (index, bytes) = (u64::from(*number), Bytes::copy_from_slice(body));
        let record = match what % 8 {
            0 | 1 => Record::Entry { index, bytes },
            2 => Record::Meta { key: record::any_key(*number), bytes },
            3 => Record::Remove { from: index, to: u64::from(*length) },
            4 => Record::End,
            5 => {
                damage(file, index as usize * 8, body);
                continue;
            }
            6 if segment < MAX_SEGMENTS => {
                files.push(segment::header(segment + 1).to_vec());
                continue;
            }
            _ => {
                // A gap.
                file.resize(file.len() + 8, 0);
                continue;
            }
        };
        // The next one, mostly.
        sequence += u64::from(what & 0xf0 != 0xf0);
        let durable = if what & 8 == 0 { 0 } else { sequence.saturating_sub(1) };
        record::put(file, segment, sequence, durable, &record);
    }
    for (number, mut file) in (1..).zip(files) {
        file.resize(file.len().max(CAPACITY), 0);
        fs::write(folder.join(format!("{number:016x}.wal")), file)?;
    }
    Ok(())
}

fn damage(file: &mut [u8], at: usize, bytes: &[u8]) {
    let at = at % file.len();
    file[at..].iter_mut().zip(bytes).for_each(|(old, new)| *old = *new);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_fuzz_corpus_is_decoded() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/wal");
        let mut inputs = 0;
        for file in fs::read_dir(corpus).unwrap() {
            let path = file.unwrap().path();
            let folder = tempfile::tempdir().unwrap();
            let good = !path.to_string_lossy().contains("bad");
            assert_eq!(log(folder.path(), &fs::read(&path).unwrap()), good, "{}", path.display());
            inputs += 1;
        }
        writeln!(io::stderr(), "fuzz corpus wal: {inputs} inputs").unwrap();
    }
}
